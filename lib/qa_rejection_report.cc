/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "rejection_report.h"
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <string>

namespace gr {
namespace diffjscc {

namespace {

// "unreadable of all", empty for nothing.
std::string told(const std::optional<rejection_report::tally>& news)
{
    return news ? std::to_string(news->unreadable) + " of " +
                      std::to_string(news->unreadable + news->readable)
                : "";
}

} // namespace

BOOST_AUTO_TEST_CASE(unreadable_preambles_are_told_at_once_and_then_every_ten_seconds)
{
    rejection_report report;
    rate_limit::clock::time_point now{};
    const std::chrono::seconds second{ 1 };
    report.add(80, true);
    BOOST_TEST(told(report.due(now)) == "");
    report.add(80, false);
    BOOST_TEST(told(report.due(now)) == "1 of 2");
    BOOST_TEST(told(report.due(now)) == "");
    for (int i = 1; i < 10; i++) {
        report.add(80, false);
        BOOST_TEST(told(report.due(now + i * second)) == "");
    }
    BOOST_TEST(told(report.due(now + 10 * second)) == "9 of 9");
    // Silence is no reason for another line.
    BOOST_TEST(!report.pending());
    BOOST_TEST(told(report.due(now + 100 * second)) == "");
    report.add(80, false);
    BOOST_TEST(report.pending());
    BOOST_TEST(told(report.due(now + 101 * second)) == "1 of 1");
}

BOOST_AUTO_TEST_CASE(false_alarms_are_not_told)
{
    rejection_report report;
    for (double metric : { 0.0, 28.0, 39.9, double(NAN) })
        report.add(metric, false);
    BOOST_TEST(!report.pending());
    BOOST_TEST(told(report.due({})) == "");
}

} // namespace diffjscc
} // namespace gr
