/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_INTERCARRIER_CANCELLER_H
#define INCLUDED_DIFFJSCC_INTERCARRIER_CANCELLER_H

#include "known_elements.h"

namespace gr {
namespace diffjscc {

/*!
 * Takes away what a channel that moves within an OFDM symbol spreads from each carrier to the
 * others.
 *
 * Model: within the symbol r the channel of carrier l is h(l) + τ h'(l), τ the time from the
 * symbol's middle in OFDM symbols. After the FFT,
 *
 *     y(k) = h(k) x(k) + Σ_l T(k - l) h'(l) x(l) + w,
 *
 * T the transform of τ over the FFT's window. The sum is computed as FFT(τ · IFFT(h' x̂)), with
 * the slope h' from the channel's estimates in the neighbouring symbols, and x̂ the element
 * where it is known and its MMSE estimate h* y/(|h|² + v) elsewhere. What is left of the
 * disturbance is the share that x̂ misses: 8 dB less at an SNR of 8 dB. With f Doppler turns in
 * a symbol it was (2πf)²/24 of the signal, 13 dB below it at f = 0.17.
 */
class intercarrier_canceller
{
public:
    explicit intercarrier_canceller(const preset& parameters);

    /*!
     * The burst without that disturbance.
     *
     * \param received  as it came
     * \param cleaned  with less of the disturbance; estimates x̂ are taken from it
     * \param whole  what the first OFDM symbols are known to hold
     * \param channel  on each resource element
     * \param noise_var  there too
     */
    resource_grid operator()(const resource_grid& received,
                             const resource_grid& cleaned,
                             const resource_grid& whole,
                             const resource_grid& channel,
                             const Eigen::MatrixXf& noise_var);

private:
    const preset& d_preset;
    fft::fft_complex_fwd d_forward;
    fft::fft_complex_rev d_backward;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_INTERCARRIER_CANCELLER_H */
