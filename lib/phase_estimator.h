/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_PHASE_ESTIMATOR_H
#define INCLUDED_DIFFJSCC_PHASE_ESTIMATOR_H

#include "ofdm_demodulator.h"

namespace gr {
namespace diffjscc {

//! A phase linear in time t and frequency: phase + t (offset + 2π clock_offset k/fft_len)
//! on carrier k.
struct phase_plane {
    double phase;        //!< radians, at the reference time
    double offset;       //!< carrier offset, radians/sample
    double clock_offset; //!< of the sampling clocks, as a share
};

/*!
 * Carrier and clock offset from the pilots, against a channel estimate h(k).
 *
 * A pilot p on carrier k at the time t is received as y = h(k) p e^{jφ} + w, where φ is a
 * phase plane. A carrier offset turns all carriers alike. A clock offset of 1e-5 moves the
 * FFT window by one sample in 1e5, which turns each carrier in proportion to its frequency.
 *
 * 1. Coarse. Matched to the channel, the pilots of one OFDM symbol sum to one complex
 *    number m(t). The offset is the ω where Re Σ m(t) e^{-jωt} is largest, found by search.
 *    The real part is taken, not the modulus, because the channel estimate contains the
 *    phase at t = 0: an offset must explain the phase itself and not only its slope.
 * 2. Fine. The plane minimises Σ |y - h p e^{jφ}|²/σ², by Gauss-Newton: for small φ,
 *    Im(y conj(h p)) ≈ |h|² φ is linear in the three parameters. In short bursts pilots say
 *    little of the clock offset; a Gaussian prior with standard deviation CLOCK_PRIOR keeps
 *    it near 0 there.
 *
 * Times are in samples since a reference, at which the channel estimate's phase holds.
 * Holds for a channel that does not change otherwise, and for offsets within the range that
 * is searched.
 */
class phase_estimator
{
public:
    explicit phase_estimator(const preset& parameters);

    /*!
     * The carrier offset, radians/sample.
     *
     * \param received  the burst's first OFDM symbols
     * \param channel  its estimate, carriers
     * \param times  of those symbols
     * \param range  largest offset that is looked for, radians/sample
     */
    double coarse_offset(const resource_grid& received,
                         const Eigen::VectorXcf& channel,
                         const Eigen::VectorXd& times,
                         double range) const;

    //! The whole plane; ``noise_var`` is that of a resource element.
    phase_plane plane(const resource_grid& received,
                      const Eigen::VectorXcf& channel,
                      double noise_var,
                      const Eigen::VectorXd& times) const;

    //! Removes a plane's phase from the grid.
    void undo(resource_grid& received,
              const phase_plane& plane,
              const Eigen::VectorXd& times) const;

private:
    const preset& d_preset;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_PHASE_ESTIMATOR_H */
