/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_PREAMBLE_ESTIMATOR_H
#define INCLUDED_DIFFJSCC_PREAMBLE_ESTIMATOR_H

#include "preset.h"
#include <Eigen/Core>

namespace gr {
namespace diffjscc {

//! What the preamble tells of a burst's timing and channel.
struct preamble_estimate {
    int window;               //!< where FFTs begin, samples after the prefix's end; ≤ 0
    Eigen::VectorXcf channel; //!< carriers; its phase is that of the time TIME
};

/*!
 * The channel from the preamble, and from it where in the cyclic prefix the FFT belongs.
 *
 * The received preamble is r = S t + w: S the Toeplitz matrix of the two chirps, t the
 * channel's taps, from EARLY samples before the tagged one to cp_len behind it. Least
 * squares with a small prior, t = (S'S + εI)⁻¹ S'r, is one product with a fixed matrix. ε
 * keeps the taps bounded that differ only outside the occupied band. Most of the taps
 * hold only noise: each is multiplied by the Wiener gain 1 - c σ²/|t|², where σ² is its
 * noise variance, from what the fit leaves over. FFT windows are compared by the energy
 * of the cp_len taps behind their beginning, which is what the cyclic prefix absorbs.
 *
 * Holds for echoes within the prefix, and for carrier offsets that turn the phase little
 * over the preamble. What the detector leaves at -5 dB, 1.4e-3 radians/sample rms, turns
 * it by 0.2 radians towards either end.
 */
class preamble_estimator
{
public:
    //! Taps before the tagged sample.
    static constexpr int EARLY = 8;

    //! The time at which the channel estimate's phase holds: the preamble's middle,
    //! samples.
    static constexpr double TIME = (PREAMBLE_LEN - 1) / 2.0;

    explicit preamble_estimator(const preset& parameters);

    //! From the tagged sample on, carrier offset undone; PREAMBLE_LEN - EARLY are read.
    preamble_estimate estimate(const gr_complex* samples) const;

private:
    const int d_cp_len;
    Eigen::MatrixXcf d_preamble;         // taps → received preamble
    Eigen::MatrixXcf d_preamble_inverse; // and back
    Eigen::VectorXf d_tap_noise;         // variance of a tap over that of a sample
    const Eigen::MatrixXcf d_response;   // taps behind a window's beginning → carriers
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_PREAMBLE_ESTIMATOR_H */
