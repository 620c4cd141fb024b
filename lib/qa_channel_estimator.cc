/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_estimator.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

constexpr int PAYLOAD = 3072;

// A burst through two paths. The second turns by ``turn`` radians from the burst's first
// OFDM symbol to its last.
struct burst {
    const preset parameters;
    const channel_estimator estimator{ parameters };
    const int symbols = parameters.header_symbols + parameters.payload_symbols(PAYLOAD);
    const resource_grid sent;
    resource_grid channel, received;

    burst(int fft_len, double noise_var, double turn, int seed)
        : parameters(fft_len, 16),
          sent(sent_grid(parameters, symbols, seed))
    {
        const auto first = echo(parameters, 0.8f, 3.5);
        const auto second = echo(parameters, gr_complex(0, 0.6f), 7.2);
        channel.resize(sent.rows(), symbols);
        for (int symbol = 0; symbol < symbols; symbol++) {
            const gr_complex phase(std::polar(1.0, turn * symbol / (symbols - 1)));
            channel.col(symbol) = first + phase * second;
        }
        received = noisy(sent.cwiseProduct(channel), noise_var, seed + 1000);
    }

    resource_grid header() const { return sent.leftCols(parameters.header_symbols); }
    channel_estimate estimate() const { return estimator.from_burst(received, header()); }

    // Mean square error of an estimate over the mean power of the channel.
    double error(const resource_grid& estimated) const
    {
        return (estimated - channel).squaredNorm() / channel.squaredNorm();
    }

    double snr_db(double noise_var) const
    {
        return 10 * std::log10(channel.squaredNorm() / channel.size() / noise_var);
    }
};

} // namespace

BOOST_AUTO_TEST_CASE(the_header_gives_the_channel_nearer_than_the_noise)
{
    for (int fft_len : { 64, 256 }) {
        for (double noise_var : { 1e-3, 0.1, 2.0 }) {
            const burst burst(fft_len, noise_var, 0, 1);
            const auto [channel, noise] = burst.estimator.from_header(
                burst.received.leftCols(burst.parameters.header_symbols), burst.header());
            const double error = (channel - burst.channel.col(0)).squaredNorm() /
                                 burst.channel.col(0).squaredNorm();
            // 832 elements for 16 parameters: 17 dB below the noise.
            BOOST_TEST(error < 1.5 * noise_var * 16 / 832 + 1e-5);
            BOOST_TEST(noise == noise_var, boost::test_tools::tolerance(0.1));
        }
    }
}

BOOST_AUTO_TEST_CASE(a_channel_that_stands_still_is_averaged_over_the_burst)
{
    for (int fft_len : { 64, 256 }) {
        for (double noise_var : { 0.01, 0.1, 1.0 }) {
            const burst burst(fft_len, noise_var, 0, 2);
            const auto estimate = burst.estimate();
            // About 1100 known elements for 16 parameters: 18 dB below the noise. A degree
            // above 0 would cost twice that and more.
            BOOST_TEST(burst.error(estimate.channel) <
                       noise_var * 1.5 * 16 / 1100 + 1e-5);
            const int middle = burst.symbols / 2;
            BOOST_TEST((estimate.middle - burst.channel.col(middle)).squaredNorm() <
                       (noise_var * 3 * 16 / 1100 + 1e-5) *
                           estimate.middle.squaredNorm());
        }
    }
}

BOOST_AUTO_TEST_CASE(a_channel_that_turns_is_followed_by_a_polynomial)
{
    for (int fft_len : { 64, 256 }) {
        for (double turn : { 0.5, 1.5, 3.0 }) {
            const double noise_var = 0.01;
            const burst burst(fft_len, noise_var, turn, 3);
            const auto estimate = burst.estimate();
            BOOST_TEST_CONTEXT("turn " << turn)
            {
                BOOST_TEST(burst.error(estimate.channel) < 3e-3);
                BOOST_TEST(double(estimate.noise_var.mean()) < 1.5 * noise_var);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(snr_and_noise_variance_are_those_of_the_channel)
{
    for (int fft_len : { 64, 256 }) {
        for (double snr_db : { -3.0, 1.0, 5.0, 10.0, 15.0, 20.0 }) {
            double bias = 0, square = 0, noise = 0;
            const int runs = 20;
            const double noise_var = std::pow(10, -snr_db / 10);
            for (int seed = 0; seed < runs; seed++) {
                const burst burst(fft_len, noise_var, 0, seed);
                const auto estimate = burst.estimate();
                const double error = estimate.snr_db - burst.snr_db(noise_var);
                bias += error / runs;
                square += error * error / runs;
                noise += estimate.noise_var.mean() / noise_var / runs;
            }
            BOOST_TEST_CONTEXT("fft_len " << fft_len << ", " << snr_db << " dB")
            {
                // The noise variance is known to 1/sqrt(1100), 0.13 dB. The estimate's
                // own noise counts as gain, which shows at low SNR.
                BOOST_TEST(std::abs(bias) < (snr_db < 0 ? 0.25 : 0.1));
                BOOST_TEST(std::sqrt(square) < 0.35);
                // With the estimate's own error, a share of 16/1100.
                BOOST_TEST(noise == 1.015, boost::test_tools::tolerance(0.03));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_burst_that_ends_with_its_header_has_an_estimate)
{
    const burst burst(256, 0.1, 0, 4);
    const int header = burst.parameters.header_symbols;
    const auto estimate =
        burst.estimator.from_burst(burst.received.leftCols(header), burst.header());
    BOOST_TEST(estimate.channel.cols() == header);
    BOOST_TEST(estimate.snr_db == 10.0, boost::test_tools::tolerance(0.05));
}

BOOST_AUTO_TEST_CASE(silence_gives_finite_numbers)
{
    burst burst(64, 0, 0, 5);
    burst.received.setZero();
    const auto estimate = burst.estimate();
    BOOST_TEST(estimate.channel.allFinite());
    BOOST_TEST(estimate.noise_var.allFinite());
    BOOST_TEST(std::isfinite(estimate.snr_db));
}

} // namespace diffjscc
} // namespace gr
