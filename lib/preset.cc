/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "preset.h"
#include "sequences.h"
#include <stdexcept>

namespace gr {
namespace diffjscc {

preset::preset(int fft_length, int prefix) : fft_len(fft_length), cp_len(prefix)
{
    if (fft_len != 64 && fft_len != 256)
        throw std::invalid_argument("fft_len must be 64 or 256");
    if (cp_len < 8 || cp_len > fft_len / 4)
        throw std::invalid_argument("cp_len must be between 8 and a quarter of fft_len");
    const int half = fft_len * BANDWIDTH / 2;
    for (int k = -half; k <= half; k++)
        if (k != 0)
            carriers.push_back(k);
    const int pilots = carriers.size() / PILOT_SPACING;
    data_per_symbol = carriers.size() - pilots;
    header_symbols = HEADER_ELEMENTS / data_per_symbol;
    const auto values = qpsk_sequence(PILOT_SPACING * pilots, PILOT_SEED);
    for (int symbol = 0; symbol < PILOT_SPACING; symbol++) {
        const int first = (PILOT_SPACING / 2 + PILOT_STEP * symbol) % PILOT_SPACING;
        std::vector<int> pilot, data;
        for (int i = 0; i < int(carriers.size()); i++)
            (i % PILOT_SPACING == first ? pilot : data).push_back(i);
        pilot_positions.push_back(pilot);
        data_positions.push_back(data);
        pilot_values.emplace_back(values.begin() + symbol * pilots,
                                  values.begin() + (symbol + 1) * pilots);
    }
}

} // namespace diffjscc
} // namespace gr
