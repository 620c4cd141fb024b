/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "qa_signals.h"
#include <gnuradio/blocks/vector_sink.h>
#include <gnuradio/blocks/vector_source.h>
#include <gnuradio/diffjscc/burst_detector.h>
#include <gnuradio/top_block.h>
#include <pmt/pmt.h>
#include <boost/test/unit_test.hpp>
#include <stdexcept>

namespace gr {
namespace diffjscc {

namespace {

struct tagged {
    int64_t sample;
    double cfo, timing, metric;
};

// What the detector tags in these samples, by their index in the input. What comes out must
// be the input, later.
std::vector<tagged> detect(std::vector<gr_complex> samples, double max_offset = 0.05)
{
    samples.resize(samples.size() + 5000); // to flush the detector
    const auto flowgraph = gr::make_top_block("detect");
    const auto source = gr::blocks::vector_source_c::make(samples);
    const auto detector = burst_detector::make(1e-9, max_offset);
    const auto sink = gr::blocks::vector_sink_c::make();
    flowgraph->connect(source, 0, detector, 0);
    flowgraph->connect(detector, 0, sink, 0);
    flowgraph->run();
    const auto output = sink->data();
    const int delay = detector->sample_delay(0);
    BOOST_REQUIRE(output.size() > samples.size() - 5000 + delay);
    for (size_t n = delay; n < output.size(); n++)
        if (std::isfinite(std::abs(samples[n - delay])))
            BOOST_REQUIRE(output[n] == samples[n - delay] ||
                          std::norm(samples[n - delay]) > 1e24f);
    std::vector<tagged> found;
    for (const auto& tag : sink->tags()) {
        BOOST_TEST(pmt::symbol_to_string(tag.key) == "burst");
        const auto field = [&](const char* key) {
            return pmt::to_double(
                pmt::dict_ref(tag.value, pmt::intern(key), pmt::PMT_NIL));
        };
        found.push_back({ int64_t(tag.offset) - delay,
                          field("cfo"),
                          field("timing"),
                          field("metric") });
    }
    BOOST_TEST(detector->detected() == found.size());
    return found;
}

// Noise with a preamble at each of these samples.
std::vector<gr_complex>
with_preambles(const std::vector<int>& begins, double cfo, double noise_var, int count)
{
    auto samples = gaussian(1)(noise_var, count);
    const auto sent = preamble();
    for (int begin : begins)
        for (int n = 0; n < PREAMBLE_LEN; n++)
            samples[begin + n] +=
                sent[n] * gr_complex(std::polar(1.0, 2 * M_PI * cfo * (begin + n)));
    return samples;
}

} // namespace

BOOST_AUTO_TEST_CASE(wrong_parameters_are_refused)
{
    for (double rate : { 0.0, 1.0, -1.0, double(NAN) })
        BOOST_CHECK_THROW(burst_detector::make(rate, 0.05), std::invalid_argument);
    for (double offset : { 0.0, 0.21, -0.05, double(NAN), double(INFINITY) })
        BOOST_CHECK_THROW(burst_detector::make(1e-9, offset), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(the_threshold_follows_from_the_false_alarm_rate)
{
    // W (1 + T) exp(-T) with W = 35 positions for offsets to 0.05.
    for (double rate : { 1e-9, 1e-6 }) {
        const double t = burst_detector::make(rate, 0.05)->threshold();
        BOOST_TEST(35 * (1 + t) * std::exp(-t) == rate,
                   boost::test_tools::tolerance(1e-6));
    }
}

BOOST_AUTO_TEST_CASE(preambles_are_found_where_they_begin_with_their_offset)
{
    // Some at the borders of the detector's steps, 1536 samples.
    const std::vector<int> begins = { 0, 1000, 1536, 3071, 4608, 6000 };
    for (double cfo : { -0.05, -0.0123, 0.0, 0.05 }) {
        const auto found = detect(with_preambles(begins, cfo, 0.1, 7000));
        BOOST_REQUIRE_EQUAL(found.size(), begins.size());
        for (size_t i = 0; i < found.size(); i++) {
            BOOST_TEST(std::abs(found[i].sample + found[i].timing - begins[i]) < 0.3);
            BOOST_TEST(std::abs(found[i].cfo - cfo) < 2.5e-4);
            BOOST_TEST(found[i].metric > 100);
        }
    }
}

BOOST_AUTO_TEST_CASE(offsets_that_move_the_signal_over_the_edge_of_the_band_are_found)
{
    const std::vector<int> begins = { 0, 1000, 1536, 3071, 4608, 6000 };
    for (double cfo : { -0.2, -0.15, 0.0999, 0.2 }) {
        const auto found = detect(with_preambles(begins, cfo, 0.1, 7000), 0.2);
        BOOST_REQUIRE_EQUAL(found.size(), begins.size());
        for (size_t i = 0; i < found.size(); i++) {
            BOOST_TEST(std::abs(found[i].sample + found[i].timing - begins[i]) < 0.3);
            BOOST_TEST(std::abs(found[i].cfo - cfo) < 2.5e-4);
        }
    }
}

BOOST_AUTO_TEST_CASE(carriers_in_the_band_do_not_hide_preambles)
{
    std::vector<int> begins;
    for (int i = 0; i < 36; i++)
        begins.push_back(3000 + 701 * i);
    for (double level : { 1.0, 10.0, 1000.0 })
        for (double frequency : { 0.0, 0.12341, -0.3 }) {
            auto samples = with_preambles(begins, 0.02, 0.1, 32000);
            for (size_t n = 0; n < samples.size(); n++)
                samples[n] += gr_complex(
                    std::polar(std::sqrt(level), 2 * M_PI * frequency * n + 1));
            auto found = detect(samples);
            // Where a strong carrier begins or ends it is no line.
            found.erase(std::remove_if(found.begin(),
                                       found.end(),
                                       [](const tagged& one) {
                                           return one.sample < 2500 || one.sample > 28000;
                                       }),
                        found.end());
            BOOST_REQUIRE_EQUAL(found.size(), begins.size());
            for (size_t i = 0; i < found.size(); i++) {
                BOOST_TEST(std::abs(found[i].sample + found[i].timing - begins[i]) < 0.5);
                BOOST_TEST(std::abs(found[i].cfo - 0.02) < 5e-4);
            }
        }
}

BOOST_AUTO_TEST_CASE(carriers_are_no_preambles)
{
    // Lines are missing from the noise then, and it is not quite white any more.
    for (double level : { 0.1, 10.0, 1000.0 }) {
        auto samples = gaussian(3)(1.0, 300000);
        for (size_t n = 0; n < samples.size(); n++)
            samples[n] += gr_complex(std::polar(std::sqrt(level), 0.7 * n)) +
                          gr_complex(std::polar(std::sqrt(level), -1.3 * n));
        BOOST_TEST(detect(samples).empty());
    }
}

BOOST_AUTO_TEST_CASE(preambles_are_found_in_noise_above_their_level)
{
    std::vector<int> begins;
    for (int i = 0; i < 100; i++)
        begins.push_back(500 + 700 * i);
    // -5 dB a sample: the metric is 61 on average, the threshold 28.
    const auto found = detect(with_preambles(begins, 0.02, std::pow(10, 0.5), 71000));
    BOOST_TEST(found.size() >= 98);
    BOOST_TEST(found.size() <= 100);
    double square = 0;
    for (const auto& one : found)
        square += std::pow(one.cfo - 0.02, 2) / found.size();
    // sqrt(1/(M s)) / (2π M) is 2.0e-4.
    BOOST_TEST(std::sqrt(square) < 3e-4);
}

BOOST_AUTO_TEST_CASE(the_strongest_path_gives_the_time)
{
    auto samples = with_preambles({ 2000 }, 0.03, 1e-3, 4000);
    const auto direct = samples;
    for (size_t n = 9; n < samples.size(); n++)
        samples[n] = 0.5f * direct[n] + gr_complex(0, 1.0f) * direct[n - 9];
    const auto found = detect(samples);
    BOOST_REQUIRE_EQUAL(found.size(), 1);
    BOOST_TEST(std::abs(found[0].sample + found[0].timing - 2009) < 0.5);
    BOOST_TEST(std::abs(found[0].cfo - 0.03) < 1e-4);
}

BOOST_AUTO_TEST_CASE(noise_silence_and_overload_are_no_preambles)
{
    BOOST_TEST(detect(gaussian(2)(1.0, 300000)).empty());
    BOOST_TEST(detect(std::vector<gr_complex>(20000)).empty());
    BOOST_TEST(detect(std::vector<gr_complex>(20000, 1e30f)).empty());
    for (float level : { 1e11f, 1e14f, 1e17f }) {
        auto samples = with_preambles({ 5000 }, 0, 0.1, 8000);
        for (auto& sample : samples)
            sample *= level;
        BOOST_TEST(detect(samples).size() == (level < 1e12f ? 1 : 0));
    }
    BOOST_TEST(detect(std::vector<gr_complex>(20000, NAN)).empty());
}

BOOST_AUTO_TEST_CASE(samples_that_are_no_numbers_do_not_hide_a_preamble)
{
    auto samples = with_preambles({ 3000 }, 0, 0.1, 5000);
    for (int n : { 10, 2900, 3100, 3101, 3400 })
        samples[n] = gr_complex(NAN, INFINITY);
    const auto found = detect(samples);
    BOOST_REQUIRE_EQUAL(found.size(), 1);
    BOOST_TEST(std::abs(found[0].sample + found[0].timing - 3000) < 0.3);
}

} // namespace diffjscc
} // namespace gr
