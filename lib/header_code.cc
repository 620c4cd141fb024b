/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "header_code.h"
#include "burst_format.h"
#include <algorithm>
#include <bitset>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

constexpr int VERSION = 1;
constexpr uint32_t HEADER_SEED = 2;
constexpr int BITS = 128, BYTES = BITS / 8, CRC_BYTES = 3;
constexpr int CODED = 3 * BITS;
constexpr int COPY_SHIFT = 61;
constexpr int MEMORY = 6, STATES = 1 << MEMORY;
constexpr int WRAP = 48;

// The current bit's tap is the highest.
constexpr std::array<int, 3> GENERATORS = { 0133, 0171, 0165 };

// Three coded bits for a register whose highest bit is the current one.
int coded(int reg)
{
    int bits = 0;
    for (int generator : GENERATORS)
        bits = bits << 1 | (std::bitset<MEMORY + 1>(reg & generator).count() & 1);
    return bits;
}

// The likeliest bits for soft values, three a bit and positive for 0, from any state to any state.
// A state is the last six bits, the newest the highest; its two predecessors differ in the bit that falls out.
std::vector<uint8_t> viterbi(const std::vector<float>& soft)
{
    const int steps = soft.size() / 3;
    std::array<float, STATES> cost{}, before;
    std::vector<std::array<uint8_t, STATES>> oldest(steps);
    static const std::array<int, 2 * STATES> outputs = [] {
        std::array<int, 2 * STATES> values;
        for (int reg = 0; reg < 2 * STATES; reg++)
            values[reg] = coded(reg);
        return values;
    }();
    for (int step = 0; step < steps; step++) {
        std::array<float, 8> price{};
        for (int output = 0; output < 8; output++)
            for (int j = 0; j < 3; j++)
                price[output] += output >> (2 - j) & 1 ? soft[3 * step + j] : -soft[3 * step + j];
        before = cost;
        for (int state = 0; state < STATES; state++) {
            const int reg = 2 * state;
            const float with_0 = before[reg % STATES] + price[outputs[reg]];
            const float with_1 = before[reg % STATES + 1] + price[outputs[reg + 1]];
            oldest[step][state] = with_1 < with_0;
            cost[state] = std::min(with_0, with_1);
        }
    }
    int state = std::min_element(cost.begin(), cost.end()) - cost.begin();
    std::vector<uint8_t> bits(steps);
    for (int step = steps - 1; step >= 0; step--) {
        bits[step] = state >> (MEMORY - 1);
        state = (2 * state + oldest[step][state]) % STATES;
    }
    return bits;
}

uint32_t crc24(const uint8_t* data, int count)
{
    uint32_t reg = 0xB704CE;
    for (int i = 0; i < count; i++) {
        reg ^= uint32_t(data[i]) << 16;
        for (int bit = 0; bit < 8; bit++)
            reg = reg << 1 ^ (reg & 0x800000 ? 0x1864CFB : 0);
    }
    return reg & 0xFFFFFF;
}

} // namespace

header_code::header_code()
    : d_scramble(qpsk_sequence(burst_format::HEADER_ELEMENTS, HEADER_SEED)),
      d_order(scattered_order(CODED))
{
}

std::optional<burst_header> header_code::decode(const std::vector<gr_complex>& elements) const
{
    // Copies together again, then back to the order of the code; positive for 0.
    std::array<float, CODED> soft{};
    for (int i = 0; i < burst_format::HEADER_ELEMENTS; i++) {
        const gr_complex value = elements[i] * std::conj(d_scramble[i]);
        const int copy = i / (CODED / 2);
        const int symbol = (i + COPY_SHIFT * copy) % (CODED / 2);
        soft[d_order[2 * symbol]] += value.real();
        soft[d_order[2 * symbol + 1]] += value.imag();
    }

    std::vector<float> wrapped;
    for (int i = 3 * (BITS - WRAP); i < 3 * (2 * BITS + WRAP); i++)
        wrapped.push_back(soft[i % CODED]);
    const std::vector<uint8_t> bits = viterbi(wrapped);

    std::array<uint8_t, BYTES> data{};
    for (int i = 0; i < BITS; i++)
        data[i / 8] = data[i / 8] << 1 | bits[WRAP + i];
    const int body = BYTES - CRC_BYTES;
    const uint32_t checksum = uint32_t(data[body]) << 16 | data[body + 1] << 8 | data[body + 2];
    const int length = (data[0] & 0x1F) << 8 | data[1];
    if (checksum != crc24(data.data(), body) || data[0] >> 5 != VERSION || length == 0)
        return std::nullopt;
    burst_header header{ length, {} };
    std::copy_n(data.begin() + 2, IMAGE_BYTES, header.image.begin());
    return header;
}

std::vector<gr_complex> header_code::encode(const burst_header& header) const
{
    std::array<uint8_t, BYTES> data{ uint8_t(VERSION << 5 | header.length >> 8), uint8_t(header.length) };
    std::copy(header.image.begin(), header.image.end(), data.begin() + 2);
    const uint32_t checksum = crc24(data.data(), BYTES - CRC_BYTES);
    for (int i = 0; i < CRC_BYTES; i++)
        data[BYTES - CRC_BYTES + i] = checksum >> (8 * (CRC_BYTES - 1 - i));

    std::vector<int> bits(BITS);
    for (int i = 0; i < BITS; i++)
        bits[i] = data[i / 8] >> (7 - i % 8) & 1;
    int state = 0;
    for (int i = BITS - MEMORY; i < BITS; i++)
        state = (bits[i] << MEMORY | state) >> 1;
    std::array<float, CODED> signs;
    for (int i = 0; i < BITS; i++) {
        const int reg = bits[i] << MEMORY | state;
        for (int j = 0; j < 3; j++)
            signs[3 * i + j] = coded(reg) >> (2 - j) & 1 ? -1 : 1;
        state = reg >> 1;
    }
    std::vector<gr_complex> elements;
    for (int i = 0; i < burst_format::HEADER_ELEMENTS; i++) {
        const int symbol = (i + COPY_SHIFT * (i / (CODED / 2))) % (CODED / 2);
        elements.push_back(gr_complex(signs[d_order[2 * symbol]], signs[d_order[2 * symbol + 1]]) *
                           float(M_SQRT1_2) * d_scramble[i]);
    }
    return elements;
}

} // namespace diffjscc
} // namespace gr
