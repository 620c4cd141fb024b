/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_format.h"
#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace gr {
namespace diffjscc {

namespace {

constexpr int PILOT_STEP = 5;
constexpr uint32_t PILOT_SEED = 1;

uint32_t mix(uint32_t h)
{
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

} // namespace

std::vector<int> scattered_order(int count)
{
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [](int a, int b) { return mix(a + 1) < mix(b + 1); });
    return order;
}

std::vector<gr_complex> qpsk_sequence(int count, uint32_t seed)
{
    std::vector<gr_complex> values;
    for (int i = 0; i < count; i++) {
        const int quadrant = mix((seed << 16) + i) >> 30;
        values.push_back(std::polar(1.0f, float(M_PI / 4) * (2 * quadrant + 1)));
    }
    return values;
}

burst_format::burst_format(int fft_length, int prefix) : fft_len(fft_length), cp_len(prefix)
{
    if (fft_len != 64 && fft_len != 256)
        throw std::invalid_argument("fft_len must be 64 or 256");
    if (cp_len < 8 || cp_len > fft_len / 4)
        throw std::invalid_argument("cp_len must be between 8 and a quarter of fft_len");
    const int half = fft_len * 13 / 32;
    for (int k = -half; k <= half; k++)
        if (k != 0)
            carriers.push_back(k);
    const int pilots = 2 * half / PILOT_PERIOD;
    data_per_symbol = 2 * half - pilots;
    header_rows = HEADER_ELEMENTS / data_per_symbol;
    const auto values = qpsk_sequence(PILOT_PERIOD * pilots, PILOT_SEED);
    for (int row = 0; row < PILOT_PERIOD; row++) {
        const int first = (PILOT_PERIOD / 2 + PILOT_STEP * row) % PILOT_PERIOD;
        std::vector<int> at, free;
        for (int i = 0; i < 2 * half; i++)
            (i % PILOT_PERIOD == first ? at : free).push_back(i);
        pilot_positions.push_back(at);
        data_positions.push_back(free);
        pilot_values.emplace_back(values.begin() + row * pilots, values.begin() + (row + 1) * pilots);
    }
}

} // namespace diffjscc
} // namespace gr
