/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "noise_estimator.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

// A burst through a channel of gain 1 in noise of this variance on each element.
struct burst {
    const preset parameters;
    const resource_grid sent;
    resource_grid received;
    const resource_grid channel;

    burst(int fft_len, const Eigen::MatrixXf& variance, int seed)
        : parameters(fft_len, 16),
          sent(sent_grid(parameters, variance.cols(), seed)),
          received(
              noisy(resource_grid::Zero(variance.rows(), variance.cols()), 1, seed + 1)
                  .cwiseProduct(variance.cwiseSqrt()) +
              sent),
          channel(resource_grid::Ones(variance.rows(), variance.cols()))
    {
    }

    noise_profile profile(double level) const
    {
        const known_elements known(
            parameters, received, sent.leftCols(parameters.header_symbols));
        return noise_estimator(parameters)(received, known, channel, level);
    }
};

Eigen::MatrixXf white(int fft_len, double variance)
{
    return Eigen::MatrixXf::Constant(preset(fft_len, 16).carriers.size(), 40, variance);
}

} // namespace

BOOST_AUTO_TEST_CASE(white_noise_is_even)
{
    for (int fft_len : { 64, 256 })
        for (double variance : { 1e-3, 0.03, 1.0, 3.0 }) {
            int uneven = 0;
            for (int seed = 0; seed < 25; seed++)
                uneven += burst(fft_len, white(fft_len, variance), seed)
                              .profile(variance)
                              .uneven;
            BOOST_TEST_CONTEXT(fft_len << ", " << variance)
            BOOST_TEST(uneven == 0);
        }
}

BOOST_AUTO_TEST_CASE(symbols_that_were_disturbed_are_found)
{
    Eigen::MatrixXf variance = white(256, 0.03);
    variance.middleCols(10, 15).array() += 1.0f;
    const auto profile = burst(256, variance, 1).profile(0.4);
    BOOST_REQUIRE(profile.uneven);
    const Eigen::MatrixXf found = profile.variance();
    for (int symbol = 0; symbol < variance.cols(); symbol++)
        BOOST_TEST(found.col(symbol).mean() == variance(0, symbol),
                   boost::test_tools::tolerance(0.6f));
}

BOOST_AUTO_TEST_CASE(carriers_that_are_disturbed_are_found)
{
    Eigen::MatrixXf variance = white(256, 0.03);
    variance.row(50).array() += 10;
    variance.row(51).array() += 1;
    const auto profile = burst(256, variance, 2).profile(0.08);
    BOOST_REQUIRE(profile.uneven);
    const Eigen::MatrixXf found = profile.variance();
    BOOST_TEST(found.row(50).mean() > 3);
    BOOST_TEST(found.row(51).mean() > 0.3);
    // The others are hardly touched.
    BOOST_TEST(found.bottomRows(150).mean() == 0.03f, boost::test_tools::tolerance(0.2f));
}

BOOST_AUTO_TEST_CASE(silence_gives_finite_noise)
{
    const auto even = white(64, 0);
    burst burst(64, even, 3);
    burst.received.setZero();
    BOOST_TEST(burst.profile(1e-20).variance().allFinite());
}

} // namespace diffjscc
} // namespace gr
