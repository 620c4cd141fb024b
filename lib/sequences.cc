/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "sequences.h"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace gr {
namespace diffjscc {

uint32_t mix(uint32_t h)
{
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

std::vector<int> scattered_order(int count)
{
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(
        order.begin(), order.end(), [](int a, int b) { return mix(a + 1) < mix(b + 1); });
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

} // namespace diffjscc
} // namespace gr
