/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_response.h"
#include "chirp.h"
#include "preamble_estimator.h"
#include <Eigen/Cholesky>

namespace gr {
namespace diffjscc {

using Eigen::MatrixXcf;
using Eigen::VectorXcf;

namespace {

// ε, as a share of a tap's own energy.
constexpr float PREAMBLE_PRIOR = 0.03f;

// c: a tap's power must exceed its noise by this factor, or it is taken as noise.
constexpr float TAP_DOUBT = 2.0f;

// The window that is used unless another holds more energy by the factor WINDOW_GAIN.
constexpr int USUAL_WINDOW = -4;
constexpr float WINDOW_GAIN = 1.02f;

} // namespace

preamble_estimator::preamble_estimator(const preset& parameters)
    : d_cp_len(parameters.cp_len),
      d_response(channel_response(parameters))
{
    const int taps = EARLY + d_cp_len;
    // Samples that only the preamble reaches, whatever the tap.
    const int count = PREAMBLE_LEN - EARLY;
    MatrixXcf sent = MatrixXcf::Zero(count, taps);
    for (int n = 0; n < count; n++) {
        for (int tap = 0; tap < taps; tap++) {
            const int at = n - (tap - EARLY);
            if (at >= 0) {
                const gr_complex value(chirp(at % CHIRP_LEN));
                sent(n, tap) = at < CHIRP_LEN ? value : std::conj(value);
            }
        }
    }
    const MatrixXcf gram = sent.adjoint() * sent + PREAMBLE_PRIOR * PREAMBLE_LEN *
                                                       MatrixXcf::Identity(taps, taps);
    d_preamble_inverse = gram.ldlt().solve(sent.adjoint());
    d_preamble = sent;
    d_tap_noise = d_preamble_inverse.rowwise().squaredNorm();
}

preamble_estimate preamble_estimator::estimate(const gr_complex* samples) const
{
    const Eigen::Map<const VectorXcf> received(samples, d_preamble.rows());
    VectorXcf taps = d_preamble_inverse * received;
    const float noise_var =
        (received - d_preamble * taps).squaredNorm() / (d_preamble.rows() - taps.size());
    taps.array() *= (1 - TAP_DOUBT * noise_var * d_tap_noise.array() /
                             taps.array().abs2().max(1e-30f))
                        .max(0.0f);
    int best = USUAL_WINDOW;
    float most = 0;
    for (int window : { USUAL_WINDOW, -8, -7, -6, -5, -3, -2, -1, 0 }) {
        const float energy = taps.segment(EARLY + window, d_cp_len).squaredNorm();
        if (energy > most * WINDOW_GAIN) {
            most = energy;
            best = window;
        }
    }
    return { best, d_response * taps.segment(EARLY + best, d_cp_len) };
}

} // namespace diffjscc
} // namespace gr
