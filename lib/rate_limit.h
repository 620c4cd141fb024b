/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_RATE_LIMIT_H
#define INCLUDED_DIFFJSCC_RATE_LIMIT_H

#include <chrono>
#include <optional>

namespace gr {
namespace diffjscc {

//! Lets through what happens at most once in PERIOD.
class rate_limit
{
public:
    using clock = std::chrono::steady_clock;

    static constexpr std::chrono::seconds PERIOD{ 10 };

    //! Whether it may happen at this time, which counts as if it did.
    bool pass(clock::time_point now)
    {
        if (d_last && now - *d_last < PERIOD)
            return false;
        d_last = now;
        return true;
    }

private:
    std::optional<clock::time_point> d_last;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_RATE_LIMIT_H */
