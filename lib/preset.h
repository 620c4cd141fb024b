/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_PRESET_H
#define INCLUDED_DIFFJSCC_PRESET_H

#include "air_interface.h"
#include <gnuradio/gr_complex.h>
#include <vector>

namespace gr {
namespace diffjscc {

/*!
 * The air interface's parameters for one number of subcarriers (docs/air-interface.md,
 * sections 2 and 4): where a burst's carriers, pilots and data lie. The transmitter's
 * counterpart is src/diffjscc/air/preset.py.
 */
struct preset {
    //! Throws std::invalid_argument for sizes that the air interface does not have.
    preset(int fft_len, int cp_len);

    //! OFDM symbols that a payload of ``length`` symbols takes.
    int payload_symbols(int length) const
    {
        return (length + data_per_symbol - 1) / data_per_symbol;
    }

    //! Samples of an OFDM symbol with its prefix.
    int symbol_len() const { return fft_len + cp_len; }

    const int fft_len, cp_len;
    std::vector<int> carriers; //!< by increasing frequency, without 0
    int data_per_symbol;       //!< carriers of an OFDM symbol that are not pilots
    int header_symbols;        //!< OFDM symbols that the header takes

    //! For each of the PILOT_SPACING OFDM symbols of the pattern: the pilots' indices
    //! into ``carriers``, what they send, and the indices of the data carriers.
    std::vector<std::vector<int>> pilot_positions, data_positions;
    std::vector<std::vector<gr_complex>> pilot_values;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_PRESET_H */
