/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "impulse_blanker.h"
#include "qa_signals.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

BOOST_AUTO_TEST_CASE(impulses_are_blanked_and_nothing_else)
{
    auto samples = gaussian(1)(1.0, 6000);
    const std::vector<int> at = { 0, 700, 701, 3000, 5999 };
    for (int n : at)
        samples[n] = gr_complex(0, 10);
    const auto before = samples;
    BOOST_TEST(impulse_blanker()(samples.data(), samples.size()) == int(at.size()));
    for (int n = 0; n < int(samples.size()); n++) {
        const bool blank = std::count(at.begin(), at.end(), n) > 0;
        BOOST_TEST((samples[n] == (blank ? gr_complex(0) : before[n])));
    }
}

BOOST_AUTO_TEST_CASE(signal_and_noise_alone_lose_almost_nothing)
{
    // Of 2·10⁶ Gaussian samples; then of those with a channel that fades 15 dB in between.
    impulse_blanker blanker;
    for (bool fades : { false, true }) {
        int blanked = 0;
        for (int seed = 0; seed < 200; seed++) {
            auto samples = gaussian(seed)(1.0, 10000);
            if (fades)
                for (int n = 0; n < 10000; n++)
                    samples[n] *= std::abs(std::sin(2 * M_PI * n / 4000)) + 0.17f;
            blanked += blanker(samples.data(), samples.size());
        }
        BOOST_TEST(blanked < 200);
    }
}

BOOST_AUTO_TEST_CASE(a_long_burst_of_power_is_left_to_others)
{
    auto samples = gaussian(1)(1.0, 4000);
    for (int n = 2000; n < 2400; n++)
        samples[n] *= 30;
    BOOST_TEST(impulse_blanker()(samples.data(), samples.size()) < 10);
}

BOOST_AUTO_TEST_CASE(silence_and_short_pieces_are_no_fault)
{
    impulse_blanker blanker;
    std::vector<gr_complex> samples(100);
    BOOST_TEST(blanker(samples.data(), 100) == 0);
    samples[50] = 1;
    BOOST_TEST(blanker(samples.data(), 100) == 0);
    for (int count : { 0, 1, 7 })
        BOOST_TEST(blanker(samples.data(), count) == 0);
}

} // namespace diffjscc
} // namespace gr
