/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_CHIRP_H
#define INCLUDED_DIFFJSCC_CHIRP_H

#include <gnuradio/gr_complex.h>
#include <cmath>

namespace gr {
namespace diffjscc {

//! Samples of one chirp, and the bandwidth that it sweeps in cycles/sample (docs/air-interface.md, section 3).
constexpr int CHIRP_LEN = 128;
constexpr double BANDWIDTH = 13.0 / 16.0;
constexpr double SWEEP_RATE = BANDWIDTH / CHIRP_LEN;
constexpr int PREAMBLE_LEN = 2 * CHIRP_LEN;

//! The up-chirp at a time in samples since its start; its conjugate is the down-chirp.
inline gr_complexd chirp(double time)
{
    const double centred = time - (CHIRP_LEN - 1) / 2.0;
    return std::polar(1.0, M_PI * SWEEP_RATE * centred * centred);
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_CHIRP_H */
