/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_REJECTION_REPORT_H
#define INCLUDED_DIFFJSCC_REJECTION_REPORT_H

#include "rate_limit.h"

#include <cstdint>
#include <optional>
#include <utility>

namespace gr {
namespace diffjscc {

/*!
 * Decides when users are told of preambles behind which no header could be read.
 *
 * Some of them are the detector's false alarms, which are expected. The detector's metric
 * tells them from real preambles: in white noise it exceeds m at most W (1 + m) e^-m
 * times a sample (see burst_detector), with W = 67 positions for carrier offsets up to
 * 0.1. Above CREDIBLE = 40 that is 1.2e-14, once in 100 days at 10 Msps, whatever
 * false-alarm rate the detector was given. A preamble reaches 40 at an SNR of -7 dB,
 * where few headers can be read. So only these are reported, as often as rate_limit lets.
 */
class rejection_report
{
public:
    static constexpr double CREDIBLE = 40;

    //! A preamble of this metric has been looked at.
    void add(double metric, bool readable)
    {
        if (metric >= CREDIBLE)
            (readable ? d_seen.readable : d_seen.unreadable)++;
    }

    //! Preambles since the last report.
    struct tally {
        uint64_t unreadable = 0, readable = 0;
    };

    //! What to tell at this time, if anything.
    std::optional<tally> due(rate_limit::clock::time_point now)
    {
        if (!pending() || !d_limit.pass(now))
            return std::nullopt;
        return std::exchange(d_seen, {});
    }

    //! Whether a call of `due` may have anything to tell.
    bool pending() const { return d_seen.unreadable > 0; }

private:
    tally d_seen;
    rate_limit d_limit;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_REJECTION_REPORT_H */
