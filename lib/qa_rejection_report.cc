/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "rejection_report.h"
#include <boost/test/unit_test.hpp>
#include <cmath>

namespace gr {
namespace diffjscc {

BOOST_AUTO_TEST_CASE(unreadable_preambles_are_told_at_once_and_then_every_ten_seconds)
{
    rejection_report report;
    rejection_report::clock::time_point now{};
    const std::chrono::seconds second{ 1 };
    report.add(80, true);
    BOOST_TEST(report.due(now) == "");
    report.add(80, false);
    BOOST_TEST(report.due(now) == "1 of 2 preambles");
    BOOST_TEST(report.due(now) == "");
    for (int i = 1; i < 10; i++) {
        report.add(80, false);
        BOOST_TEST(report.due(now + i * second) == "");
    }
    BOOST_TEST(report.due(now + 10 * second) == "9 of 9 preambles");
    // Silence is no reason for another line.
    BOOST_TEST(!report.pending());
    BOOST_TEST(report.due(now + 100 * second) == "");
    report.add(80, false);
    BOOST_TEST(report.pending());
    BOOST_TEST(report.due(now + 101 * second) == "1 of 1 preambles");
}

BOOST_AUTO_TEST_CASE(false_alarms_are_not_told)
{
    rejection_report report;
    for (double metric : { 0.0, 28.0, 39.9, double(NAN) })
        report.add(metric, false);
    BOOST_TEST(!report.pending());
    BOOST_TEST(report.due({}) == "");
}

} // namespace diffjscc
} // namespace gr
