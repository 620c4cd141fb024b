/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "channel_search.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>
#include <functional>

namespace gr {
namespace diffjscc {

namespace {

constexpr int PAYLOAD = 3072;

// A burst whose channel is given on each OFDM symbol.
struct burst {
    const preset parameters;
    const channel_estimator estimator{ parameters };
    const int symbols = parameters.header_symbols + parameters.payload_symbols(PAYLOAD);
    const resource_grid sent;
    resource_grid channel, received;

    burst(int fft_len,
          double noise_var,
          int seed,
          const std::function<Eigen::VectorXcf(const preset&, int)>& on_symbol)
        : parameters(fft_len, 16),
          sent(sent_grid(parameters, symbols, seed)),
          channel(sent.rows(), symbols)
    {
        for (int symbol = 0; symbol < symbols; symbol++)
            channel.col(symbol) = on_symbol(parameters, symbol);
        received = noisy(sent.cwiseProduct(channel), noise_var, seed + 1000);
    }

    searched_channel search() const
    {
        return channel_search(parameters, estimator.basis())(
            received, sent.leftCols(parameters.header_symbols), channel_search::ENOUGH);
    }

    // Mean square error of the estimate, its phases included, over the channel's power.
    double error(const searched_channel& found) const
    {
        resource_grid estimated = found.estimate.channel;
        if (found.phase.size())
            channel_search::undo(estimated, -found.phase);
        return (estimated - channel).squaredNorm() / channel.squaredNorm();
    }
};

// A path's gain under Rayleigh fading with this Doppler shift, cycles/symbol.
std::vector<gr_complex> rayleigh(int symbols, double doppler, int seed)
{
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> turn(0, 2 * M_PI);
    std::vector<gr_complex> gain(symbols);
    for (int n = 0; n < 32; n++) {
        const double shift = 2 * M_PI * doppler * std::cos(turn(random)),
                     phase = turn(random);
        for (int symbol = 0; symbol < symbols; symbol++)
            gain[symbol] +=
                gr_complex(std::polar(std::sqrt(1.0 / 32), shift * symbol + phase));
    }
    return gain;
}

} // namespace

BOOST_AUTO_TEST_CASE(a_channel_that_stands_still_is_known_as_such)
{
    for (int fft_len : { 64, 256 }) {
        const double noise_var = 0.1;
        const burst burst(fft_len, noise_var, 1, [](const preset& p, int) {
            return Eigen::VectorXcf(echo(p, 0.8f, 3.5) +
                                    echo(p, gr_complex(0, 0.6f), 7.2));
        });
        const auto found = burst.search();
        BOOST_TEST(found.phase.size() == 0);
        BOOST_TEST(!found.noise.uneven);
        BOOST_TEST(burst.error(found) < noise_var * 1.5 * 16 / 1100);
    }
}

BOOST_AUTO_TEST_CASE(oscillators_phase_noise_is_followed)
{
    // Steps of 0.1 and 0.8 radians rms from one OFDM symbol to the next.
    for (double step : { 0.1, 0.8 }) {
        gaussian random(3);
        double phase = 0;
        const burst burst(256, 0.03, 1, [&](const preset& p, int) {
            phase += random(2.0).real() * step;
            return Eigen::VectorXcf(echo(p, gr_complex(std::polar(0.8, phase)), 3.5) +
                                    echo(p, gr_complex(std::polar(0.5, phase)), 6));
        });
        const auto found = burst.search();
        BOOST_TEST(found.phase.size() == burst.symbols);
        // 16 pilots in a symbol, at 15 dB: a phase is known to 0.03 radians.
        BOOST_TEST(burst.error(found) < 4e-3);
        BOOST_TEST(double(found.estimate.noise_var.mean()) == 0.03,
                   boost::test_tools::tolerance(0.25));
    }
}

BOOST_AUTO_TEST_CASE(fading_is_followed_on_one_path_and_on_two)
{
    // 0.136 turns of Doppler in an OFDM symbol, 2.7 in the burst: 500 Hz at 1 Msps.
    for (int paths : { 1, 2 }) {
        std::vector<std::vector<gr_complex>> gains;
        for (int path = 0; path < paths; path++)
            gains.push_back(rayleigh(40, 0.136, 10 + path));
        const burst burst(256, 0.03, 1, [&](const preset& p, int symbol) {
            Eigen::VectorXcf sum = Eigen::VectorXcf::Zero(p.carriers.size());
            for (int path = 0; path < paths; path++)
                sum +=
                    echo(p, gains[path][symbol] / std::sqrt(float(paths)), 4 + 3 * path);
            return sum;
        });
        const auto found = burst.search();
        BOOST_TEST_CONTEXT(paths << " paths")
        {
            BOOST_TEST(burst.error(found) < 0.02);
            // What is claimed is about what is.
            const double error =
                (found.received - burst.sent.cwiseProduct(found.estimate.channel))
                    .squaredNorm() /
                burst.received.size();
            BOOST_TEST(double(found.estimate.noise_var.mean()) == error,
                       boost::test_tools::tolerance(0.35));
        }
    }
}

BOOST_AUTO_TEST_CASE(symbols_that_did_not_come_are_left_out)
{
    burst burst(256, 0.03, 1, [](const preset& p, int) {
        return Eigen::VectorXcf(echo(p, 0.8f, 3.5) + echo(p, gr_complex(0, 0.6f), 7.2));
    });
    std::vector<bool> lost(burst.symbols);
    for (int symbol : { 8, 9, 10 }) {
        burst.received.col(symbol).setZero();
        lost[symbol] = true;
    }
    const auto found = channel_search(burst.parameters, burst.estimator.basis())(
        burst.received,
        burst.sent.leftCols(burst.parameters.header_symbols),
        channel_search::ENOUGH,
        lost);
    BOOST_TEST(found.phase.size() == 0);
    BOOST_TEST(burst.error(found) < 0.03 * 1.5 * 16 / 1000);
}

BOOST_AUTO_TEST_CASE(what_a_moving_channel_spreads_between_carriers_is_taken_away)
{
    // A path whose gain grows linearly: 1 in the burst's middle, by 0.15 in each OFDM symbol.
    const preset parameters(256, 16);
    const int symbols = 8;
    const double slope = 0.15;
    const resource_grid sent = sent_grid(parameters, symbols, 1);
    resource_grid channel(sent.rows(), symbols), received(sent.rows(), symbols);
    fft::fft_complex_fwd forward(256);
    fft::fft_complex_rev backward(256);
    for (int symbol = 0; symbol < symbols; symbol++) {
        const double gain = 1 + slope * (symbol - 3.5);
        channel.col(symbol).setConstant(gain);
        std::fill_n(backward.get_inbuf(), 256, 0);
        for (int i = 0; i < sent.rows(); i++)
            backward.get_inbuf()[(parameters.carriers[i] + 256) % 256] = sent(i, symbol);
        backward.execute();
        for (int n = 0; n < 256; n++)
            forward.get_inbuf()[n] = backward.get_outbuf()[n] *
                                     float((gain + slope * (n - 127.5) / 272) / 256);
        forward.execute();
        for (int i = 0; i < sent.rows(); i++)
            received(i, symbol) =
                forward.get_outbuf()[(parameters.carriers[i] + 256) % 256];
    }
    const resource_grid whole = sent.leftCols(parameters.header_symbols);
    const Eigen::MatrixXf noise_var =
        Eigen::MatrixXf::Constant(sent.rows(), symbols, 1e-3);
    const auto off = [&](const resource_grid& grid) {
        return (grid - sent.cwiseProduct(channel)).squaredNorm();
    };
    const resource_grid cleaned =
        intercarrier_canceller(parameters)(received, received, whole, channel, noise_var);
    BOOST_TEST(off(cleaned) < 0.02 * off(received));
}

BOOST_AUTO_TEST_CASE(interference_in_half_of_the_symbols_is_weighted)
{
    burst burst(256, 0.03, 1, [](const preset& p, int) {
        return Eigen::VectorXcf(echo(p, 0.8f, 3.5) + echo(p, gr_complex(0, 0.6f), 7.2));
    });
    const int half = burst.symbols / 2;
    burst.received.rightCols(half) =
        noisy(resource_grid(burst.received.rightCols(half)), 1.0, 5);
    const auto found = burst.search();
    BOOST_TEST(found.phase.size() == 0);
    BOOST_TEST(double(found.estimate.noise_var.leftCols(half).mean()) == 0.03,
               boost::test_tools::tolerance(0.2));
    BOOST_TEST(double(found.estimate.noise_var.rightCols(half).mean()) == 1.03,
               boost::test_tools::tolerance(0.2));
    BOOST_TEST(burst.error(found) < 0.03 * 1.5 * 16 / 900);
}

BOOST_AUTO_TEST_CASE(silence_and_noise_give_finite_numbers)
{
    for (double power : { 0.0, 1.0 }) {
        burst burst(64, power, 5, [](const preset& p, int) {
            return Eigen::VectorXcf(Eigen::VectorXcf::Zero(p.carriers.size()));
        });
        const auto found = burst.search();
        BOOST_TEST(found.estimate.channel.allFinite());
        BOOST_TEST(found.estimate.noise_var.allFinite());
        BOOST_TEST(std::isfinite(found.estimate.snr_db));
    }
}

} // namespace diffjscc
} // namespace gr
