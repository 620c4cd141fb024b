/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "unknown_signal.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

const rate_limit::clock::time_point START{};
const std::chrono::seconds SECOND{ 1 };

// A burst of so many windows at this power, with noise of power 1 before and behind it.
void burst(unknown_signal& signal, int windows, float power, bool detected = false)
{
    for (int i = 0; i < 20; i++)
        signal.add(1);
    for (int i = 0; i < windows; i++) {
        signal.add(power);
        if (detected && i == 2)
            signal.explain();
    }
    for (int i = 0; i < 20; i++)
        signal.add(1);
}

} // namespace

BOOST_AUTO_TEST_CASE(bursts_without_a_preamble_are_told_once_in_ten_seconds)
{
    unknown_signal signal;
    burst(signal, 60, 100);
    BOOST_TEST(!signal.due(START)); // a single one may be anything
    burst(signal, 80, 100);
    BOOST_TEST(signal.due(START));
    for (int second = 1; second < 10; second++) {
        burst(signal, 200, 100);
        BOOST_TEST(!signal.due(START + second * SECOND));
    }
    BOOST_TEST(signal.due(START + 10 * SECOND));
    BOOST_TEST(!signal.due(START + 100 * SECOND));
}

BOOST_AUTO_TEST_CASE(at_the_stream_s_end_one_burst_is_enough)
{
    for (const bool open : { false, true }) {
        unknown_signal signal;
        burst(signal, 12, 10);
        if (open) {
            signal = {};
            signal.add(1);
            for (int i = 0; i < 12; i++)
                signal.add(10);
        }
        BOOST_TEST(!signal.due(START));
        BOOST_TEST(signal.due(START, true));
    }
}

BOOST_AUTO_TEST_CASE(what_is_explained_or_no_burst_is_not_told)
{
    unknown_signal signal;
    for (int i = 0; i < 50; i++)
        burst(signal, 60, 100, true); // detected
    for (int i = 0; i < 1000; i++)
        burst(signal, 5, 1e6f); // impulses
    for (int i = 0; i < 50; i++)
        burst(signal, 60, 2.5f); // too weak to tell from noise
    BOOST_TEST(!signal.due(START, true));
    // A gain that is turned up and stays, and one that goes down.
    for (float gain : { 4.5f, 100.0f, 1.0f }) {
        for (int i = 0; i < 40000; i++)
            signal.add(gain);
        BOOST_TEST(!signal.due(START, true));
    }
}

BOOST_AUTO_TEST_CASE(a_stream_without_noise_has_bursts_too)
{
    unknown_signal signal;
    for (int i = 0; i < 4; i++) {
        for (int n = 0; n < 20; n++)
            signal.add(0);
        for (int n = 0; n < 60; n++)
            signal.add(n % 2 ? 1.1f : 0.9f);
    }
    BOOST_TEST(signal.due(START, true));
    // Silence, then noise that stays, and bursts in it.
    signal = {};
    for (int n = 0; n < 20; n++)
        signal.add(0);
    for (int n = 0; n < 4000; n++)
        signal.add(1);
    BOOST_TEST(!signal.due(START, true));
    for (int i = 0; i < 4; i++)
        burst(signal, 60, 10);
    BOOST_TEST(signal.due(START));
}

} // namespace diffjscc
} // namespace gr
