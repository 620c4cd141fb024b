/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_TONE_CANCELLER_H
#define INCLUDED_DIFFJSCC_TONE_CANCELLER_H

#include <gnuradio/fft/fft.h>
#include <gnuradio/gr_complex.h>
#include <vector>

namespace gr {
namespace diffjscc {

/*!
 * Finds and subtracts unmodulated carriers: spurious tones, other transmitters, a receiver's
 * DC offset (which the carrier offset moves away from 0).
 *
 * A tone between two carriers leaks into all of them: at its own power of 0 dB, 30 carriers to
 * either side still receive more of it than of noise at 15 dB. But over n samples of signal
 * with power P its amplitude is known to P/n, and with it the whole tone can be subtracted;
 * 35 dB below the signal remains of it after 5000 samples, whatever its power was.
 *
 * Found in the periodogram of the burst's beginning: in a bin, signal and noise are exponentially distributed. A peak is a tone where it
 * exceeds THRESHOLD times their local level, by the upper quartile of the bins around it (the
 * median would fall at the band's edges). For 1600 samples that is a tone 17 dB below the
 * signal. The strongest is subtracted, and the search is repeated.
 *
 * Its frequency is made finer by the phase between the two halves of the samples: first of as
 * many as it was found in, then of twice as many, until all are used. The phase between halves
 * stays unambiguous, since each step is finer than the next one needs.
 *
 * Holds for tones that keep their frequency to about 1/(4 n) during a burst of n samples.
 */
class tone_canceller
{
public:
    //! For a burst's beginning of ``span`` samples.
    explicit tone_canceller(int span);

    //! Subtracts the tones that are in ``span`` samples; returns their frequencies,
    //! cycles/sample.
    std::vector<double> find(gr_complex* samples);

    //! Subtracts tones near these frequencies, as they were found in the first ``span`` of
    //! ``count`` samples.
    void subtract(gr_complex* samples, int count, const std::vector<double>& tones) const;

private:
    double refine(const gr_complex* samples, int count, double frequency) const;

    const int d_span;
    fft::fft_complex_fwd d_fft;
    std::vector<float> d_power, d_around;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_TONE_CANCELLER_H */
