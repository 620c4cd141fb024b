/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "noise_estimator.h"
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

using Eigen::ArrayXf;
using Eigen::ArrayXXf;

namespace {

// Variance of |x|² of data, 1 for Gaussian symbols.
constexpr float SPREAD = 2;

// A factor that differs from 1 by so many standard deviations is believed as it is.
constexpr float OUTLIER = 5;

// The first step's limits: a single factor, and the sum of squares of all, in standard
// deviations. Powers are exponentially distributed, whose tails are long.
constexpr float SINGLE = 8, TOGETHER = 6;

constexpr int ROUNDS = 6;

// Limits of one step up and down, and of the sum of all, of log a factor.
constexpr float LONGEST_STEP = 2, SHORTEST_STEP = 0.7f, LARGEST = 12;

// Of the noise, over the power that was received.
constexpr double LEAST_LEVEL = 1e-9;

constexpr float LEAST_INFORMATION = 1e-6f;

} // namespace

noise_profile noise_estimator::operator()(const resource_grid& received,
                                          const known_elements& known,
                                          const resource_grid& channel,
                                          double level) const
{
    const int carriers = received.rows(), symbols = received.cols();
    // Powers seen, and those of the signal that they contain.
    ArrayXXf seen = received.array().abs2(), signal = channel.array().abs2();
    for (int symbol = 0; symbol < symbols; symbol++) {
        const auto& at = known.positions(symbol);
        for (size_t p = 0; p < at.size(); p++) {
            seen(at[p], symbol) =
                std::norm(known.seen(symbol)(p) - channel(at[p], symbol));
            signal(at[p], symbol) = 0;
        }
    }
    // Relative to the mean power, so that squares fit a float whatever the receiver's gain.
    const float scale = 1 / std::max(seen.mean(), 1e-35f);
    if (!std::isfinite(scale * level))
        level = 1 / scale;
    seen *= scale;
    signal *= scale;
    const double least = std::max(level * scale, LEAST_LEVEL);
    noise_profile profile{
        least, Eigen::VectorXf::Ones(carriers), Eigen::VectorXf::Ones(symbols), false
    };
    ArrayXXf weight, push;
    const auto expect = [&] {
        const ArrayXXf noise = profile.variance().array();
        const ArrayXXf expected = signal + noise;
        weight = noise.square() / (expected.square() + (SPREAD - 1) * signal.square());
        push = weight * (seen - expected) / noise;
    };
    expect();
    const auto differs = [](const ArrayXf& sums, const ArrayXf& information) {
        const ArrayXf squares = sums.square() / information;
        const int count = squares.size();
        return squares.maxCoeff() > SINGLE * SINGLE ||
               squares.sum() > count + TOGETHER * std::sqrt(3.0f * count);
    };
    if (!differs(push.rowwise().sum(), weight.rowwise().sum()) &&
        !differs(push.colwise().sum(), weight.colwise().sum())) {
        profile.level = level;
        return profile;
    }
    profile.uneven = true;
    const auto shrunk = [](const ArrayXf& logs, const ArrayXf& information) {
        // The middle of the logarithms is common to all: part of the level.
        ArrayXf sorted = logs;
        std::nth_element(sorted.data(),
                         sorted.data() + sorted.size() / 2,
                         sorted.data() + sorted.size());
        const float middle = sorted(sorted.size() / 2);
        const ArrayXf apart = logs - middle;
        const auto usual = apart.square() * information < OUTLIER * OUTLIER;
        const float count = std::max<float>(1, usual.count());
        const float excess =
            usual.select(apart.square() - information.inverse(), 0).sum() / count;
        const float spread = std::max(excess, 0.0f);
        return ArrayXf(
            middle +
            usual.select(apart * spread / (spread + information.inverse()), apart));
    };
    // One step from the present factors, drawn towards 1.
    const auto improve = [&](Eigen::VectorXf& factors,
                             const ArrayXf& sums,
                             ArrayXf information) {
        information = information.cwiseMax(LEAST_INFORMATION);
        const ArrayXf step =
            (sums / information).cwiseMin(LONGEST_STEP).cwiseMax(-SHORTEST_STEP);
        const ArrayXf logs = factors.array().log() + step;
        factors =
            shrunk(logs.cwiseMin(LARGEST).cwiseMax(-LARGEST), information).exp().matrix();
        expect();
    };
    for (int round = 0; round < ROUNDS; round++) {
        improve(profile.symbol, push.colwise().sum(), weight.colwise().sum());
        improve(profile.carrier, push.rowwise().sum(), weight.rowwise().sum());
    }
    profile.level = least / scale;
    return profile;
}

} // namespace diffjscc
} // namespace gr
