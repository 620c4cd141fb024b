/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_FORMAT_H
#define INCLUDED_DIFFJSCC_BURST_FORMAT_H

#include <gnuradio/gr_complex.h>
#include <cstdint>
#include <vector>

namespace gr {
namespace diffjscc {

//! The indices 0 … count - 1 in the order of their hashes, and unit QPSK symbols drawn by the same hash
//! (docs/air-interface.md, section 3).
std::vector<int> scattered_order(int count);
std::vector<gr_complex> qpsk_sequence(int count, uint32_t seed);

/*!
 * A burst's shape in time and frequency (docs/air-interface.md, sections 2 and 4): what src/diffjscc/air/format.py is to
 * the transmitter.
 */
struct burst_format {
    //! Throws std::invalid_argument for sizes that do not exist.
    burst_format(int fft_len, int cp_len);

    //! OFDM symbols that a payload of so many symbols takes.
    int payload_rows(int length) const { return (length + data_per_symbol - 1) / data_per_symbol; }

    //! Samples of an OFDM symbol with its prefix.
    int symbol_len() const { return fft_len + cp_len; }

    static constexpr int PILOT_PERIOD = 13;
    static constexpr int HEADER_ELEMENTS = 768;

    const int fft_len, cp_len;
    std::vector<int> carriers; //!< by increasing frequency, without 0
    int data_per_symbol;
    int header_rows;
    //! For each symbol of the pattern, indices into ``carriers`` and what the pilots send there; the data are elsewhere.
    std::vector<std::vector<int>> pilot_positions, data_positions;
    std::vector<std::vector<gr_complex>> pilot_values;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_FORMAT_H */
