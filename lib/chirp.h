/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_CHIRP_H
#define INCLUDED_DIFFJSCC_CHIRP_H

#include "air_interface.h"
#include <gnuradio/gr_complex.h>
#include <cmath>

namespace gr {
namespace diffjscc {

//! How fast the chirps sweep, cycles/sample².
constexpr double SWEEP_RATE = BANDWIDTH / CHIRP_LEN;

//! The up-chirp ``time`` samples after its start (docs/air-interface.md, section 4). Its
//! conjugate is the down-chirp.
inline gr_complexd chirp(double time)
{
    const double centred = time - (CHIRP_LEN - 1) / 2.0;
    return std::polar(1.0, M_PI * SWEEP_RATE * centred * centred);
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_CHIRP_H */
