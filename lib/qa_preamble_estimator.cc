/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "preamble_estimator.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>
#include <utility>

namespace gr {
namespace diffjscc {

namespace {

using paths = std::vector<std::pair<int, gr_complex>>; // delay in samples, gain

// A preamble through these paths, the tagged sample first.
std::vector<gr_complex> received(const paths& channel, double noise_var, int seed)
{
    const auto sent = preamble();
    auto samples = gaussian(seed)(noise_var, PREAMBLE_LEN);
    for (const auto& [delay, gain] : channel)
        for (int n = 0; n < PREAMBLE_LEN; n++)
            if (n - delay >= 0 && n - delay < PREAMBLE_LEN)
                samples[n] += gain * sent[n - delay];
    return samples;
}

// The same channel on the carriers, as FFTs see it that begin ``window`` samples early.
Eigen::VectorXcf expected(const preset& parameters, const paths& channel, int window)
{
    Eigen::VectorXcf sum = Eigen::VectorXcf::Zero(parameters.carriers.size());
    for (const auto& [delay, gain] : channel)
        sum += echo(parameters, gain, delay - window);
    return sum;
}

} // namespace

BOOST_AUTO_TEST_CASE(the_channel_is_estimated_nearer_than_the_noise)
{
    const paths channel = { { 0, 0.8f },
                            { 3, gr_complex(0, 0.5f) },
                            { 7, gr_complex(-0.2f, 0.1f) } };
    for (int fft_len : { 64, 256 }) {
        const preset parameters(fft_len, 16);
        const preamble_estimator estimator(parameters);
        for (double noise_var : { 1e-6, 0.1, 1.0 }) {
            double error = 0;
            for (int seed = 0; seed < 20; seed++) {
                const auto samples = received(channel, noise_var, seed);
                const auto [window, estimate] = estimator.estimate(samples.data());
                const auto truth = expected(parameters, channel, window);
                error += (estimate - truth).squaredNorm() / truth.squaredNorm() / 20;
            }
            // 10 dB below the noise, and 24 dB below the signal: the prior's share, and
            // frequencies that the chirps hardly excite.
            BOOST_TEST(error < 4e-3 + 0.1 * noise_var);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_window_holds_the_paths_before_and_behind_the_tagged_one)
{
    const preset parameters(64, 16);
    const preamble_estimator estimator(parameters);
    for (const auto& [early, late] : { std::pair(-7, 2), { -4, 10 }, { 0, 15 } }) {
        const paths channel = { { early, 0.6f }, { 0, 1.0f }, { late, 0.6f } };
        const auto samples = received(channel, 1e-3, 1);
        const auto [window, estimate] = estimator.estimate(samples.data());
        BOOST_TEST(window <= early);
        BOOST_TEST(late < window + parameters.cp_len);
        const auto truth = expected(parameters, channel, window);
        BOOST_TEST((estimate - truth).squaredNorm() < 0.03 * truth.squaredNorm());
    }
}

BOOST_AUTO_TEST_CASE(silence_and_noise_give_no_channel)
{
    const preset parameters(256, 16);
    const preamble_estimator estimator(parameters);
    const std::vector<gr_complex> silence(PREAMBLE_LEN);
    BOOST_TEST(estimator.estimate(silence.data()).channel.norm() == 0);
    // Most taps of noise are set to 0: what is left is below its level by the filter's gain.
    const auto noise = gaussian(3)(1.0, PREAMBLE_LEN);
    const auto estimate = estimator.estimate(noise.data());
    BOOST_TEST(estimate.channel.squaredNorm() / estimate.channel.size() < 0.1);
}

} // namespace diffjscc
} // namespace gr
