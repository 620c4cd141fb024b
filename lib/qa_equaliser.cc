/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "equaliser.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

// A payload on its resource elements, through a channel that differs on each of them.
struct burst {
    const preset parameters{ 64, 16 };
    const int length = 100, symbols = parameters.header_symbols + 3;
    const std::vector<gr_complex> payload = gaussian(1)(1.0, length);
    resource_grid received = resource_grid::Zero(parameters.carriers.size(), symbols);
    channel_estimate estimate;

    burst()
    {
        const auto scramble = qpsk_sequence(length, PAYLOAD_SEED);
        const std::vector<gr_complex> gains = gaussian(2)(1.0, received.size());
        estimate.channel =
            Eigen::Map<const resource_grid>(gains.data(), received.rows(), symbols);
        estimate.noise_var.resize(received.rows(), symbols);
        for (int symbol = 0, at = 0; symbol < symbols; symbol++) {
            for (int i = 0; i < received.rows(); i++)
                estimate.noise_var(i, symbol) = 0.01f * (1 + i + 100 * symbol);
            if (symbol < parameters.header_symbols)
                continue;
            for (int i : parameters.data_positions[symbol % PILOT_SPACING]) {
                if (at < length)
                    received(i, symbol) =
                        estimate.channel(i, symbol) * payload[at] * scramble[at];
                at++;
            }
        }
    }
};

} // namespace

BOOST_AUTO_TEST_CASE(symbols_come_back_with_gain_one_and_their_own_noise_variance)
{
    const burst sent;
    const auto [symbols, noise_var] = equaliser(sent.parameters)(
        sent.received, sent.estimate, sent.parameters.header_symbols, sent.length);
    BOOST_REQUIRE_EQUAL(symbols.size(), sent.length);
    BOOST_REQUIRE_EQUAL(noise_var.size(), sent.length);
    int at = 0;
    for (int symbol = sent.parameters.header_symbols; symbol < sent.symbols; symbol++) {
        for (int i : sent.parameters.data_positions[symbol % PILOT_SPACING]) {
            if (at == sent.length)
                break;
            BOOST_TEST(std::abs(symbols[at] - sent.payload[at]) < 1e-4);
            const float expected = sent.estimate.noise_var(i, symbol) /
                                   std::norm(sent.estimate.channel(i, symbol));
            BOOST_TEST(noise_var[at] == expected, boost::test_tools::tolerance(1e-5f));
            at++;
        }
    }
    BOOST_TEST(at == sent.length);
}

BOOST_AUTO_TEST_CASE(what_was_not_received_is_an_erasure)
{
    burst sent;
    const int received = sent.parameters.header_symbols + 1;
    const auto [symbols, noise_var] = equaliser(sent.parameters)(

        sent.received.leftCols(received),
        sent.estimate,
        sent.parameters.header_symbols,
        sent.length);
    for (int at = 0; at < sent.length; at++) {
        const bool there = at < sent.parameters.data_per_symbol;
        BOOST_TEST(std::isfinite(noise_var[at]) == there);
        BOOST_TEST((there || symbols[at] == gr_complex(0)));
    }
}

BOOST_AUTO_TEST_CASE(a_carrier_without_gain_has_huge_noise_and_finite_symbols)
{
    burst sent;
    sent.estimate.channel.setZero();
    const auto [symbols, noise_var] = equaliser(sent.parameters)(
        sent.received, sent.estimate, sent.parameters.header_symbols, sent.length);
    for (int at = 0; at < sent.length; at++) {
        BOOST_TEST(std::isfinite(std::abs(symbols[at])));
        BOOST_TEST(noise_var[at] > 1e20f);
    }
}

} // namespace diffjscc
} // namespace gr
