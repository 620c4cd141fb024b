/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_SEQUENCES_H
#define INCLUDED_DIFFJSCC_SEQUENCES_H

#include <gnuradio/gr_complex.h>
#include <cstdint>
#include <vector>

namespace gr {
namespace diffjscc {

/*
 * Pseudo-random choices that transmitter and receiver share without tables:
 * docs/air-interface.md, section 3; src/diffjscc/air/sequences.py.
 */

//! MurmurHash3's 32-bit finaliser, a bijection.
uint32_t mix(uint32_t h);

//! The indices 0 … count - 1, sorted by mix(index + 1).
std::vector<int> scattered_order(int count);

//! Unit QPSK symbols e^{jπ(2q+1)/4}, q the two highest bits of mix(2¹⁶ seed + index).
std::vector<gr_complex> qpsk_sequence(int count, uint32_t seed);

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_SEQUENCES_H */
