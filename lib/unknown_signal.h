/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_UNKNOWN_SIGNAL_H
#define INCLUDED_DIFFJSCC_UNKNOWN_SIGNAL_H

#include "rate_limit.h"

#include <algorithm>
#include <cstdint>

namespace gr {
namespace diffjscc {

/*!
 * Notices bursts of power in which no preamble was detected.
 *
 * A preamble is missed where the transmitter's sample rate is more than about 5 % off, or
 * its carrier further away than the detector looks. All that is left to see then is the
 * power. It is compared with a floor, the lowest power of WINDOW samples so far, which
 * rises by RISE from one window to the next and so follows a noise that changes. A run of
 * windows is loud from LOUD floors on, until QUIET_WINDOWS of them are below QUIET floors.
 * What lasts less than SHORTEST (impulses) or more than LONGEST (a gain that was changed,
 * a carrier) is no burst. Runs with a detection are explained, and so is what came before
 * them.
 *
 * The floor lies 1.5 dB below the mean power of noise, the least of many windows, so that
 * signals from about 3 dB SNR on are noticed. A stream that is exactly 0 between bursts has
 * no noise: what follows such silence is loud whatever its power.
 */
class unknown_signal
{
public:
    static constexpr int WINDOW = 128;
    static constexpr float LOUD = 4, QUIET = 2, RISE = 1.0002f;
    static constexpr int QUIET_WINDOWS = 3;
    static constexpr uint64_t SHORTEST = 1024, LONGEST = 1 << 18;
    //! Samples of unexplained bursts that are worth a line: two or three bursts.
    static constexpr uint64_t ENOUGH = 16384;

    //! The mean power of the next WINDOW samples.
    void add(float power)
    {
        const bool silent = !(power > 0);
        if (!silent)
            d_floor = d_floor > 0 ? std::min(power, d_floor * RISE) : power;
        if (!d_loud &&
            (power > LOUD * d_floor || (d_silence >= QUIET_WINDOWS && !silent)))
            begin_run();
        // What comes before the stream's first sample is 0 too.
        d_silence = silent && d_floor > 0 ? d_silence + 1 : 0;
        if (!d_loud)
            return;
        d_run += WINDOW;
        const bool quiet = silent || (d_noisy && power < QUIET * d_floor);
        d_quiet = quiet ? d_quiet + 1 : 0;
        if (d_quiet == QUIET_WINDOWS || (d_run > LONGEST && !d_noisy))
            end_run();
    }

    //! A preamble has been detected.
    void explain()
    {
        d_explained = d_loud;
        d_unexplained = 0;
    }

    //! Whether there are bursts to tell of at this time. At the stream's end, with
    //! ``last``, a single one is enough.
    bool due(rate_limit::clock::time_point now, bool last = false)
    {
        if (last && d_loud)
            end_run();
        if (d_unexplained == 0 || (d_unexplained < ENOUGH && !last) || !d_limit.pass(now))
            return false;
        d_unexplained = 0;
        return true;
    }

private:
    void begin_run()
    {
        d_loud = true;
        d_noisy = d_silence < QUIET_WINDOWS;
        d_run = 0;
        d_quiet = 0;
    }

    void end_run()
    {
        const uint64_t length = d_run - d_quiet * WINDOW;
        if (!d_explained && length >= SHORTEST && length <= LONGEST)
            d_unexplained += length;
        d_loud = d_explained = false;
    }

    float d_floor = 0;
    int d_silence = 0; // windows of exactly 0 just before
    bool d_loud = false, d_explained = false;
    bool d_noisy = false; // whether the run began in noise, not in silence
    int d_quiet = 0;      // quiet windows at the run's end
    uint64_t d_run = 0, d_unexplained = 0;
    rate_limit d_limit;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_UNKNOWN_SIGNAL_H */
