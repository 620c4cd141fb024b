/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_SLIP_FINDER_H
#define INCLUDED_DIFFJSCC_SLIP_FINDER_H

#include "ofdm_demodulator.h"
#include <optional>

namespace gr {
namespace diffjscc {

//! Samples that are missing from a burst.
struct slip {
    int at;      //!< where they are missing, samples from the tagged one
    int missing; //!< how many
};

/*!
 * Finds where a radio or its driver lost samples within a burst.
 *
 * From the loss on all OFDM symbols come early, and their pilots match neither the channel nor,
 * after more than a symbol, the pattern. The match of a symbol is
 *
 *     c = |Σ y conj(h p)|² / (Σ|h|² Σ|y|²)
 *
 * over its pilots: near 1 where symbol and channel are right, 1 over the number of pilots where
 * they are not. It does not depend on the phase, nor on the level.
 *
 * 1. The first symbol from which on the match stays below LOW.
 * 2. Behind it, cyclic prefixes show where symbols begin, without any channel: the samples of
 *    the prefix and those N later are alike.
 * 3. Which symbols those are: the number of lost ones, and a few samples to either side, for
 *    which the match is best. The pattern repeats after PILOT_SPACING symbols; no more can be
 *    lost.
 * 4. Where exactly: the place at which the two symbols around match best once the missing
 *    samples are put in as zeros.
 *
 * A symbol's pilots, PILOT_SPACING carriers apart, look the same after a multiple of
 * N/PILOT_SPACING samples, 20 for N = 256: a loss of just so many is not noticed, nor one of a
 * few samples where a symbol has four pilots only.
 *
 * Holds for channels that change little during the burst, and where a few whole OFDM symbols
 * follow the loss.
 */
class slip_finder
{
public:
    explicit slip_finder(const preset& parameters);

    /*!
     * The first loss, or none.
     *
     * \param samples  from the tagged one on, carrier offset undone
     * \param count  of samples
     * \param channel  carriers, as the header has it
     * \param window  of the FFTs
     * \param first  OFDM symbol from which on losses are looked for
     * \param symbols  OFDM symbols of the burst
     */
    std::optional<slip> operator()(const gr_complex* samples,
                                   int count,
                                   const Eigen::VectorXcf& channel,
                                   int window,
                                   int first,
                                   int symbols);

private:
    int begin(int symbol) const; // of its prefix
    double match(const gr_complex* prefix,
                 int symbol,
                 const Eigen::VectorXcf& channel,
                 int window);
    int aligned(const gr_complex* samples, int symbols) const;

    const preset& d_preset;
    fft::fft_complex_fwd d_fft;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_SLIP_FINDER_H */
