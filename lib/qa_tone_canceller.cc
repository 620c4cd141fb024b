/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "qa_signals.h"
#include "tone_canceller.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

constexpr int SPAN = 1616, COUNT = 5696;

double power(const std::vector<gr_complex>& samples)
{
    double sum = 0;
    for (const auto& sample : samples)
        sum += std::norm(sample);
    return sum / samples.size();
}

// A signal like noise, of power 1, and tones: frequencies and levels, dB.
struct scene {
    const std::vector<gr_complex> signal;
    std::vector<gr_complex> samples;

    scene(const std::vector<std::pair<double, double>>& tones, int seed)
        : signal(gaussian(seed)(1.0, COUNT)),
          samples(signal)
    {
        for (const auto& [frequency, level_db] : tones)
            for (int n = 0; n < COUNT; n++)
                samples[n] += gr_complex(std::polar(std::pow(10, level_db / 20),
                                                    2 * M_PI * frequency * n + seed));
    }

    // What is left of the tones, over the signal, dB.
    double left_db() const
    {
        auto left = samples;
        for (int n = 0; n < COUNT; n++)
            left[n] -= signal[n];
        return 10 * std::log10(power(left) / power(signal) + 1e-12);
    }
};

} // namespace

BOOST_AUTO_TEST_CASE(a_tone_is_subtracted_whatever_its_level_and_frequency)
{
    tone_canceller canceller(SPAN);
    for (double level_db : { -10.0, 0.0, 10.0, 20.0 }) {
        for (double frequency : { -0.5, -0.31, -0.01, 0.0, 0.1234, 0.4 }) {
            scene scene({ { frequency, level_db } }, 7);
            auto beginning = scene.samples;
            const auto found = canceller.find(beginning.data());
            BOOST_REQUIRE(!found.empty());
            const double off = found[0] - frequency;
            BOOST_TEST(std::abs(off - std::round(off)) < 2e-4);
            canceller.subtract(scene.samples.data(), COUNT, found);
            BOOST_TEST_CONTEXT(level_db << " dB at " << frequency)
            BOOST_TEST(scene.left_db() < -30);
        }
    }
}

BOOST_AUTO_TEST_CASE(several_tones_are_subtracted)
{
    tone_canceller canceller(SPAN);
    scene scene({ { -0.2, 0 }, { 0.05, 10 }, { 0.0531, -6 }, { 0.3, -10 } }, 3);
    auto beginning = scene.samples;
    canceller.subtract(scene.samples.data(), COUNT, canceller.find(beginning.data()));
    BOOST_TEST(scene.left_db() < -24);
}

BOOST_AUTO_TEST_CASE(signal_and_noise_alone_have_no_tones)
{
    tone_canceller canceller(SPAN);
    for (int seed = 0; seed < 500; seed++) {
        auto samples = gaussian(seed)(1.0, SPAN);
        BOOST_TEST(canceller.find(samples.data()).empty());
    }
    std::vector<gr_complex> silence(SPAN);
    BOOST_TEST(canceller.find(silence.data()).empty());
}

} // namespace diffjscc
} // namespace gr
