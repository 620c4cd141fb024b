/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "phase_estimator.h"
#include <Eigen/Cholesky>
#include <cmath>
#include <limits>

namespace gr {
namespace diffjscc {

using Eigen::Matrix3d;
using Eigen::Vector3d;
using Eigen::VectorXcf;
using Eigen::VectorXd;

namespace {

// Standard deviation of clock offsets.
constexpr double CLOCK_PRIOR = 60e-6;
constexpr int GAUSS_NEWTON_STEPS = 4;

// Step of the coarse search: radians that it turns the last OFDM symbol by.
constexpr double SEARCH_STEP = 0.25;

} // namespace

phase_estimator::phase_estimator(const preset& parameters) : d_preset(parameters) {}

double phase_estimator::coarse_offset(const resource_grid& received,
                                      const VectorXcf& channel,
                                      const VectorXd& times,
                                      double range) const
{
    const int symbols = received.cols();
    std::vector<gr_complexd> matched(symbols);
    for (int symbol = 0; symbol < symbols; symbol++) {
        const auto& positions = d_preset.pilot_positions[symbol % PILOT_SPACING];
        const auto& values = d_preset.pilot_values[symbol % PILOT_SPACING];
        for (size_t p = 0; p < positions.size(); p++)
            matched[symbol] += gr_complexd(received(positions[p], symbol) *
                                           std::conj(channel(positions[p]) * values[p]));
    }
    const double step = SEARCH_STEP / times(symbols - 1);
    double best = 0, most = -std::numeric_limits<double>::infinity();
    const int steps = static_cast<int>(std::ceil(range / step));
    for (int i = -steps; i <= steps; i++) {
        double sum = 0;
        for (int symbol = 0; symbol < symbols; symbol++)
            sum += (matched[symbol] * std::polar(1.0, -i * step * times(symbol))).real();
        if (sum > most) {
            most = sum;
            best = i * step;
        }
    }
    return best;
}

phase_plane phase_estimator::plane(const resource_grid& received,
                                   const VectorXcf& channel,
                                   double noise_var,
                                   const VectorXd& times) const
{
    const int symbols = received.cols();
    // Both offsets are estimated times the duration, so that the three parameters are of
    // one size.
    const double duration = times(symbols - 1) - times(0);
    Vector3d plane = Vector3d::Zero();
    const Vector3d prior(0, 0, 1 / std::pow(CLOCK_PRIOR * duration, 2));
    for (int iteration = 0; iteration < GAUSS_NEWTON_STEPS; iteration++) {
        Vector3d gradient = Vector3d::Zero();
        Matrix3d information = Matrix3d::Zero();
        for (int symbol = 0; symbol < symbols; symbol++) {
            const auto& positions = d_preset.pilot_positions[symbol % PILOT_SPACING];
            const auto& values = d_preset.pilot_values[symbol % PILOT_SPACING];
            const double time = times(symbol) / duration;
            for (size_t p = 0; p < positions.size(); p++) {
                const int i = positions[p];
                const Vector3d slopes(
                    1, time, 2 * M_PI * d_preset.carriers[i] * time / d_preset.fft_len);
                const gr_complexd expected(channel(i) * values[p]);
                const gr_complexd error = gr_complexd(received(i, symbol)) *
                                          std::conj(expected) *
                                          std::polar(1.0, -plane.dot(slopes));
                gradient += error.imag() * slopes;
                information += std::norm(expected) * slopes * slopes.transpose();
            }
        }
        const double weight = 2 / noise_var;
        const Matrix3d penalty = prior.asDiagonal();
        plane += (weight * information + penalty)
                     .ldlt()
                     .solve(weight * gradient - penalty * plane);
    }
    return { plane(0), plane(1) / duration, plane(2) / duration };
}

void phase_estimator::undo(resource_grid& received,
                           const phase_plane& plane,
                           const VectorXd& times) const
{
    for (int symbol = 0; symbol < received.cols(); symbol++) {
        const double time = times(symbol);
        const double slope = 2 * M_PI * plane.clock_offset * time / d_preset.fft_len;
        // From one carrier to the next the phase takes one step, and two across carrier
        // 0, which is not sent.
        gr_complexd turn = std::polar(
            1.0, -(plane.phase + plane.offset * time + slope * d_preset.carriers[0]));
        const gr_complexd step = std::polar(1.0, -slope);
        for (int i = 0; i < received.rows(); i++) {
            received(i, symbol) *= gr_complex(turn);
            turn *= step;
            if (d_preset.carriers[i] == -1)
                turn *= step;
        }
    }
}

} // namespace diffjscc
} // namespace gr
