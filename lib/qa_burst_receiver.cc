/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_receiver.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

constexpr int PAYLOAD = 100; // symbols, at most three OFDM symbols

// A burst's samples with MARGIN zeros around, from the air interface's definition.
std::vector<gr_complex> burst(const preset& p, const burst_header& header, int seed)
{
    const int symbols = p.header_symbols + p.payload_symbols(header.length);
    resource_grid grid = sent_grid(p, symbols, seed);
    const auto elements = header_code().encode(header.pack());
    auto element = elements.begin();
    for (int symbol = 0; symbol < p.header_symbols; symbol++)
        for (int i : p.data_positions[symbol % PILOT_SPACING])
            grid(i, symbol) = *element++;

    std::vector<gr_complex> turns;
    for (int m = 0; m < p.fft_len; m++)
        turns.emplace_back(std::polar(1 / std::sqrt(double(p.carriers.size())),
                                      2 * M_PI * m / p.fft_len));
    std::vector<gr_complex> samples(burst_receiver::MARGIN);
    const auto front = preamble();
    samples.insert(samples.end(), front.begin(), front.end());
    for (int symbol = 0; symbol < symbols; symbol++) {
        for (int n = -p.cp_len; n < p.fft_len; n++) {
            gr_complex sum = 0;
            for (int i = 0; i < grid.rows(); i++)
                sum += grid(i, symbol) * turns[(p.carriers[i] * n) & (p.fft_len - 1)];
            samples.push_back(sum);
        }
    }
    samples.resize(samples.size() + burst_receiver::MARGIN);
    return samples;
}

// Wiener phase noise of a linewidth, cycles/sample.
void turn(std::vector<gr_complex>& samples, double linewidth, std::mt19937& random)
{
    std::normal_distribution<double> step(0, std::sqrt(2 * M_PI * linewidth));
    double phase = std::uniform_real_distribution<double>(-M_PI, M_PI)(random);
    for (auto& sample : samples)
        sample *= gr_complex(std::polar(1.0, phase += step(random)));
}

// The carrier offset as the detector takes it, from the phase between both chirps.
double detected_offset(const std::vector<gr_complex>& samples)
{
    const auto sent = preamble();
    gr_complex first = 0, second = 0;
    for (int n = 0; n < CHIRP_LEN; n++) {
        first += samples[burst_receiver::MARGIN + n] * std::conj(sent[n]);
        second += samples[burst_receiver::MARGIN + CHIRP_LEN + n] *
                  std::conj(sent[CHIRP_LEN + n]);
    }
    return std::arg(second * std::conj(first)) / (2 * M_PI * CHIRP_LEN);
}

// How many of ``count`` headers are read through phase noise, at this SNR, dB, and
// amplitude; none wrong.
int read_through(int fft_len, double linewidth, double snr_db, int count, float level = 1)
{
    burst_receiver receiver(fft_len, 16);
    const preset& p = receiver.parameters();
    std::mt19937 random(1);
    gaussian noise(2);
    int right = 0;
    for (int i = 0; i < count; i++) {
        burst_header header{ PAYLOAD, {} };
        for (auto& byte : header.image)
            byte = random();
        auto samples = burst(p, header, i);
        turn(samples, linewidth, random);
        for (auto& sample : samples)
            sample = level * (sample + noise(std::pow(10, -snr_db / 10) / BANDWIDTH));
        const auto start = receiver.read_header(samples.data() + burst_receiver::MARGIN,
                                                detected_offset(samples));
        if (start)
            BOOST_TEST((start->header == header));
        right += start.has_value();
    }
    return right;
}

} // namespace

BOOST_AUTO_TEST_CASE(headers_are_read_whose_phase_turns_between_ofdm_symbols)
{
    // Steps between OFDM symbols of 0.7 and 1.3 radians rms with ofdm64 and ofdm256. With one
    // carrier offset for the whole header, a quarter of them is lost.
    for (int fft_len : { 64, 256 })
        for (double snr_db : { 5.0, 15.0 })
            BOOST_TEST_CONTEXT("fft_len " << fft_len << ", " << snr_db << " dB")
            {
                BOOST_TEST(read_through(fft_len, 1e-3, snr_db, 200) >= 190);
                BOOST_TEST(read_through(fft_len, 1e-4, snr_db, 50) == 50);
            }
}

BOOST_AUTO_TEST_CASE(headers_whose_phase_turns_are_read_at_any_level)
{
    for (double level : { 1e-12, 1e12 })
        BOOST_TEST(read_through(256, 1e-3, 15, 100, level) >= 95);
}

BOOST_AUTO_TEST_CASE(the_carrier_offset_is_the_slope_of_phases_that_were_followed)
{
    // Further from the detector's than a first attempt looks; what is left is less than
    // FINER_SEARCH, 1.6e-4.
    for (int fft_len : { 64, 256 }) {
        burst_receiver receiver(fft_len, 16);
        const burst_header header{ PAYLOAD, {} };
        auto samples = burst(receiver.parameters(), header, 1);
        for (size_t n = 0; n < samples.size(); n++)
            samples[n] *= gr_complex(std::polar(1.0, 2 * M_PI * 1.2e-3 * n));
        const auto start =
            receiver.read_header(samples.data() + burst_receiver::MARGIN, 0);
        BOOST_REQUIRE(start);
        BOOST_TEST((start->header == header));
        BOOST_TEST(std::abs(start->cfo - 1.2e-3) < 1e-4);
    }
}

BOOST_AUTO_TEST_CASE(there_is_no_header_in_noise_or_in_nothing)
{
    for (int fft_len : { 64, 256 }) {
        burst_receiver receiver(fft_len, 16);
        gaussian noise(3);
        const int count = receiver.header_span() + 2 * burst_receiver::MARGIN;
        for (double level : { 0.0, 1e-30, 1.0, 1e25 })
            for (int i = 0; i < 100; i++)
                BOOST_TEST(!receiver.read_header(
                    noise(level, count).data() + burst_receiver::MARGIN, 0));
    }
}

} // namespace diffjscc
} // namespace gr
