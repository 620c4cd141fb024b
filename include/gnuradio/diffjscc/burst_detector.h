/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_DETECTOR_H
#define INCLUDED_DIFFJSCC_BURST_DETECTOR_H

#include <gnuradio/diffjscc/api.h>
#include <gnuradio/sync_block.h>

namespace gr {
namespace diffjscc {

/*!
 * \brief Tags the samples where bursts begin, with their time and carrier offset.
 * \ingroup diffjscc
 *
 * The preamble is a linear chirp up over the bandwidth B = 13/16 cycles/sample in M = 128
 * samples, then the same chirp down. A carrier offset f only moves the peak of a chirp's
 * matched filter: with the sweep rate mu = B/M, and the preamble beginning at t,
 *
 *     up-chirp:   m_u = t - f/mu            t   = (m_u + m_d - M) / 2
 *     down-chirp: m_d = t + M + f/mu   so   f   = mu (m_d - m_u - M) / 2
 *
 * and two filters find time and offset at once, without a bank of frequencies. Both
 * filters run by FFT.
 *
 * With rho = |c|^2 / (M sum |x|^2) over a filter's window, noise alone gives P(rho > r) =
 * (1 - r)^(M-1), whatever its level, so that lambda = -(M-1) ln(1 - rho) is exponential
 * with mean 1. A burst is where lambda_u + lambda_d > T, lambda_d being the largest of
 * the W positions that |f| <= max_offset allows: the false-alarm rate is at most W (1 +
 * T) exp(-T) a sample, and T follows from the rate. At an SNR of s in a sample the sum is
 * about 2 M s/(1+s): 51 at s = -6 dB, against T = 28 for the default parameters.
 *
 * Echoes make several peaks, and the highest up-chirp may be another path's than the
 * highest down-chirp. But c_d conj(c_u) has the same phase 2 pi f (M + f/mu) for every
 * path. So the distance m_d - m_u is the one at which the sum of these products over the
 * paths is largest, and the phase of that sum then gives f to about sqrt(1/(M s)) / (2 pi
 * M) cycles/sample. The time is that of the strongest path.
 *
 * Narrow lines, such as unmodulated carriers, are removed from the spectrum before it is
 * filtered (see line_excision), and from the energy in the windows too. Lines change lambda
 * as white noise of their power would; without them a burst is found beside a carrier of
 * any level that the receiver's converter bears.
 *
 * Holds for noise that is white over the sample rate (noise that is narrower raises the
 * false-alarm rate), for |f| <= max_offset, and for echoes up to 16 samples behind. Offsets
 * may be so large that the signal's edge lies beyond half of the sample rate: there it comes
 * in again at the other end of the band, where nothing of the signal is, if the radio's
 * filters let it.
 *
 * Output: the input, later. A burst's first sample carries the tag "burst": {"cfo":
 * cycles/sample, "timing": where the preamble begins after this sample, 0 to 1 samples,
 * "metric": lambda_u + lambda_d}. Samples that are not finite, or beyond 1e12,
 * become 0.
 *
 * Bursts of power without a preamble (see unknown_signal) are logged as a warning, at most
 * one in 10 s, and published on the message port "status": {"block", "event", "count",
 * "line"}.
 */
class DIFFJSCC_API burst_detector : virtual public gr::sync_block
{
public:
    typedef std::shared_ptr<burst_detector> sptr;

    /*!
     * \param false_alarm_rate  false alarms a sample of noise, above 0 and below 1
     * \param max_offset  largest carrier offset, cycles/sample, above 0 and at most 0.2
     */
    static sptr make(double false_alarm_rate = 1e-9, double max_offset = 0.05);

    //! Bursts tagged since the block was made.
    virtual uint64_t detected() const = 0;

    //! The threshold T on lambda_u + lambda_d.
    virtual double threshold() const = 0;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_DETECTOR_H */
