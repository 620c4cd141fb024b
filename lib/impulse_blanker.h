/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_IMPULSE_BLANKER_H
#define INCLUDED_DIFFJSCC_IMPULSE_BLANKER_H

#include <gnuradio/gr_complex.h>
#include <volk/volk_alloc.hh>

namespace gr {
namespace diffjscc {

/*!
 * Sets samples to 0 that are too strong for an OFDM signal: ignition, switching, lightning.
 *
 * An FFT spreads an impulse over all carriers of an OFDM symbol. With 0 in its place the
 * symbol loses one sample of N instead, a disturbance 10 log10 N dB below the signal.
 *
 * The signal and the noise are Gaussian, so |x|² is exponentially distributed with some mean
 * P, and exceeds 14 P once in 10⁶ samples. P is the median of the 65 samples around, over
 * ln 2: half of them must be impulses to move it far, and it follows a channel that fades.
 * Only samples above 8 times the mean of all, few in any case, are compared with it.
 * Neighbours of an impulse are blanked too if they exceed 6 P: filters in the radio widen it.
 *
 * Impulses below that threshold stay and are noise. Interference that lasts longer than half
 * of those 65 samples raises the median and stays too: that is noise_estimator's part.
 */
class impulse_blanker
{
public:
    //! Blanks impulses among ``count`` samples; returns how many samples are 0 now.
    int operator()(gr_complex* samples, int count);

private:
    float local_power(int at) const;

    volk::vector<float> d_power;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_IMPULSE_BLANKER_H */
