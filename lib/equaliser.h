/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_EQUALISER_H
#define INCLUDED_DIFFJSCC_EQUALISER_H

#include "channel_estimator.h"

namespace gr {
namespace diffjscc {

//! Payload symbols as they were sent, plus noise.
struct equalised_payload {
    std::vector<gr_complex> symbols;
    //! Of a complex symbol; +inf where nothing was received.
    std::vector<float> noise_var;
};

/*!
 * From resource elements y = h x + w to payload symbols: x̂ = y/h, which has gain 1, with
 * noise variance σ²/|h|².
 *
 * That loses nothing against the MMSE estimate, which is x̂/(1 + σ²/|h|²) for symbols of
 * unit power: the codec weighs symbols by their noise variance in this way. The
 * scrambling by the QPSK sequence of PAYLOAD_SEED is undone too.
 */
class equaliser
{
public:
    explicit equaliser(const preset& parameters);

    //! The ``length`` symbols from OFDM symbol ``first`` on. Those beyond the grid's end are
    //! erasures: 0, with infinite noise variance.
    equalised_payload operator()(const resource_grid& received,
                                 const channel_estimate& estimate,
                                 int first,
                                 int length) const;

private:
    const preset& d_preset;
    const std::vector<gr_complex> d_scramble;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_EQUALISER_H */
