/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "phase_estimator.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

// A burst of ``symbols`` OFDM symbols through two paths, with a phase plane and noise.
struct burst {
    const preset parameters;
    const phase_estimator estimator{ parameters };
    const Eigen::VectorXcf channel =
        echo(parameters, 0.8f, 2) + echo(parameters, gr_complex(0, 0.6f), 5);
    Eigen::VectorXd times;
    resource_grid received;

    burst(int fft_len, int symbols, const phase_plane& plane, double noise_var, int seed)
        : parameters(fft_len, 16)
    {
        times = ofdm_demodulator(parameters).times(symbols, 0);
        times.array() -= (times(0) + times(parameters.header_symbols - 1)) / 2;
        received = sent_grid(parameters, symbols, seed);
        for (int symbol = 0; symbol < symbols; symbol++)
            received.col(symbol).array() *= channel.array();
        // Undoing the opposite plane applies it.
        estimator.undo(
            received, { -plane.phase, -plane.offset, -plane.clock_offset }, times);
        received = noisy(received, noise_var, seed + 1000);
    }
};

} // namespace

BOOST_AUTO_TEST_CASE(a_plane_turns_each_element_by_its_phase)
{
    const phase_plane plane = { 0.3, 2e-4, 50e-6 };
    burst burst(64, 40, { 0, 0, 0 }, 0, 1);
    const resource_grid before = burst.received;
    burst.estimator.undo(burst.received, plane, burst.times);
    for (int symbol : { 0, 1, 17, 39 }) {
        for (int i : { 0, 25, 26, 51 }) {
            const double t = burst.times(symbol), k = burst.parameters.carriers[i];
            const double phase =
                plane.phase + t * (plane.offset + 2 * M_PI * k / 64 * plane.clock_offset);
            const gr_complexd expected =
                gr_complexd(before(i, symbol)) * std::polar(1.0, -phase);
            BOOST_TEST(std::abs(gr_complexd(burst.received(i, symbol)) - expected) <
                       1e-4);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_coarse_offset_is_found_over_its_whole_range)
{
    for (int fft_len : { 64, 256 }) {
        for (double offset : { -4.9e-3, -1e-3, 0.0, 2.7e-3, 4.9e-3 }) {
            // As for a header: its OFDM symbols and one more, at -3 dB.
            const int symbols = preset(fft_len, 16).header_symbols + 1;
            const burst burst(fft_len, symbols, { 0, offset, 0 }, 2.0, 3);
            const double found = burst.estimator.coarse_offset(
                burst.received, burst.channel, burst.times, 5e-3);
            // To half a radian at the header's end.
            BOOST_TEST(std::abs(found - offset) * burst.times(symbols - 1) < 0.5);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_plane_is_measured_as_well_as_the_pilots_allow)
{
    const phase_plane plane = { 0.2, 3e-5, 40e-6 };
    for (int fft_len : { 64, 256 }) {
        const double noise_var = 0.1;
        const int symbols = 9000 / (fft_len + 16), runs = 20;
        double phase = 0, offset = 0, clock = 0, duration = 0;
        for (int seed = 0; seed < runs; seed++) {
            const burst burst(fft_len, symbols, plane, noise_var, seed);
            const auto found = burst.estimator.plane(
                burst.received, burst.channel, noise_var, burst.times);
            duration = burst.times(symbols - 1);
            phase += std::pow(found.phase - plane.phase, 2) / runs;
            offset += std::pow((found.offset - plane.offset) * duration, 2) / runs;
            clock += std::pow(found.clock_offset - plane.clock_offset, 2) / runs;
        }
        // About 550 pilots at 10 dB: a phase would be known to sqrt(0.1 / 2 / 550) = 0.01 at
        // the burst's middle; at its ends, and with the slope, to about twice that.
        BOOST_TEST(std::sqrt(phase) < 0.03);
        BOOST_TEST(std::sqrt(offset) < 0.05);
        BOOST_TEST(std::sqrt(clock) < 4e-6);
    }
}

BOOST_AUTO_TEST_CASE(a_short_burst_claims_no_clock_offset)
{
    // The header and one OFDM symbol of payload, in noise as strong as the signal.
    for (int seed = 0; seed < 20; seed++) {
        const burst burst(256, 5, { 0, 0, 0 }, 1.0, seed);
        const auto found =
            burst.estimator.plane(burst.received, burst.channel, 1.0, burst.times);
        BOOST_TEST(std::abs(found.clock_offset) < 60e-6);
    }
}

} // namespace diffjscc
} // namespace gr
