/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "phase_tracker.h"
#include <cmath>
#include <limits>

namespace gr {
namespace diffjscc {

using Eigen::VectorXd;

namespace {

// Variances of a step that are tried, radians²: 0, and from the least on times 4.
constexpr double LEAST_STEP = 1e-5;
constexpr int STEPS = 10;

// The first phase is not known at all.
constexpr double UNKNOWN = M_PI * M_PI;

} // namespace

phase_track phase_tracker::operator()(const known_elements& known,
                                      const Eigen::VectorXcf& channel,
                                      const Eigen::MatrixXf& weight,
                                      double noise_var) const
{
    const int symbols = known.symbols();
    std::vector<gr_complexd> matched(symbols);
    VectorXd information(symbols); // of a phase
    for (int symbol = 0; symbol < symbols; symbol++) {
        const auto& at = known.positions(symbol);
        double power = 0;
        for (size_t p = 0; p < at.size(); p++) {
            const float share = weight(at[p], symbol);
            matched[symbol] +=
                gr_complexd(share * known.seen(symbol)(p) * std::conj(channel(at[p])));
            power += share * std::norm(channel(at[p]));
        }
        information(symbol) = 2 * power / std::max(noise_var, 1e-30) + 1e-9;
    }
    phase_track best;
    double most = -std::numeric_limits<double>::infinity();
    for (int i = 0; i <= STEPS; i++) {
        const double step = i == 0 ? 0 : LEAST_STEP * std::pow(4.0, i - 1);
        // Filtered, then smoothed; and predicted variances.
        VectorXd phase(symbols), variance(symbols), predicted(symbols);
        double likelihood = 0, now = 0, spread = UNKNOWN;
        for (int symbol = 0; symbol < symbols; symbol++) {
            predicted(symbol) = spread;
            const double noise = 1 / information(symbol);
            const double off = std::arg(matched[symbol] * std::polar(1.0, -now));
            if (symbol > 0)
                likelihood -= std::log(spread + noise) + off * off / (spread + noise);
            now += spread / (spread + noise) * off;
            spread = spread * noise / (spread + noise);
            phase(symbol) = now;
            variance(symbol) = spread;
            spread += step;
        }
        if (likelihood <= most)
            continue;
        most = likelihood;
        for (int symbol = symbols - 2; symbol >= 0; symbol--) {
            const double gain = variance(symbol) / predicted(symbol + 1);
            phase(symbol) += gain * (phase(symbol + 1) - phase(symbol));
            variance(symbol) +=
                gain * gain * (variance(symbol + 1) - predicted(symbol + 1));
        }
        best = { phase, variance, step, 0.5 * variance.dot(information) };
    }
    return best;
}

} // namespace diffjscc
} // namespace gr
