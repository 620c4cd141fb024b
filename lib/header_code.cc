/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "header_code.h"
#include "sequences.h"
#include <algorithm>
#include <bitset>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

constexpr int RATE = GENERATORS.size(); // coded bits for each bit
constexpr int CODED = RATE * HEADER_BITS;
constexpr int COPY_LEN = CODED / 2; // QPSK symbols
constexpr int MEMORY = CONSTRAINT - 1, STATES = 1 << MEMORY;
constexpr int WRAP = 48;

constexpr int CRC_BYTES = CRC_BITS / 8;
constexpr int BODY_BYTES = HEADER_BITS / 8 - CRC_BYTES;
constexpr int VERSION_SHIFT = 8 - VERSION_BITS; // in the first byte

static_assert(BODY_BYTES == MAX_CALLSIGN);

void add_checksum(header_bytes& bytes)
{
    const uint32_t checksum = crc24(bytes.data(), BODY_BYTES);
    for (int i = 0; i < CRC_BYTES; i++)
        bytes[BODY_BYTES + i] = checksum >> (8 * (CRC_BYTES - 1 - i));
}

bool intact(const header_bytes& bytes)
{
    header_bytes again = bytes;
    add_checksum(again);
    return again == bytes;
}

// Three coded bits for a register whose highest bit is the current one.
int coded(int reg)
{
    int bits = 0;
    for (int generator : GENERATORS)
        bits = bits << 1 | (std::bitset<CONSTRAINT>(reg & generator).count() & 1);
    return bits;
}

// Which symbol of the coded header element i sends.
int symbol_of(int i) { return (i + COPY_SHIFT * (i / COPY_LEN)) % COPY_LEN; }

// The likeliest bits for soft values, three for each bit and positive for 0, from any
// state to any state. A state is the last six bits, the newest the highest; the two
// states before it differ in the oldest bit, which has left the register.
std::vector<uint8_t> viterbi(const std::vector<float>& soft)
{
    const int steps = soft.size() / RATE;
    std::array<float, STATES> cost{}, before;
    std::vector<std::array<uint8_t, STATES>> oldest(steps);
    static const std::array<int, 2 * STATES> outputs = [] {
        std::array<int, 2 * STATES> values;
        for (int reg = 0; reg < 2 * STATES; reg++)
            values[reg] = coded(reg);
        return values;
    }();
    for (int step = 0; step < steps; step++) {
        std::array<float, 1 << RATE> price{};
        for (int output = 0; output < 1 << RATE; output++)
            for (int j = 0; j < RATE; j++)
                price[output] += output >> (RATE - 1 - j) & 1 ? soft[RATE * step + j]
                                                              : -soft[RATE * step + j];
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

} // namespace

uint32_t crc24(const uint8_t* data, int count)
{
    uint32_t reg = CRC_INITIAL;
    for (int i = 0; i < count; i++) {
        reg ^= uint32_t(data[i]) << (CRC_BITS - 8);
        for (int bit = 0; bit < 8; bit++)
            reg = reg << 1 ^ (reg >> (CRC_BITS - 1) & 1 ? CRC_POLYNOMIAL : 0);
    }
    return reg & ((1u << CRC_BITS) - 1);
}

header_bytes burst_header::pack() const
{
    const int version = with_callsign ? CALLSIGN_VERSION : VERSION;
    header_bytes bytes{ uint8_t(version << VERSION_SHIFT | length >> 8),
                        uint8_t(length) };
    std::copy(image.begin(), image.end(), bytes.begin() + 2);
    add_checksum(bytes);
    return bytes;
}

std::optional<burst_header> burst_header::unpack(const header_bytes& bytes)
{
    const int version = bytes[0] >> VERSION_SHIFT;
    // Lengths have as many bits as MAX_PAYLOAD, which is all ones.
    burst_header header{ (bytes[0] << 8 | bytes[1]) & MAX_PAYLOAD,
                         {},
                         version == CALLSIGN_VERSION };
    if (!intact(bytes) || (version != VERSION && version != CALLSIGN_VERSION) ||
        header.length == 0)
        return std::nullopt;
    std::copy_n(bytes.begin() + 2, header.image.size(), header.image.begin());
    return header;
}

header_bytes pack_callsign(const std::string& callsign)
{
    header_bytes bytes{};
    std::copy_n(
        callsign.begin(), std::min<size_t>(callsign.size(), MAX_CALLSIGN), bytes.begin());
    add_checksum(bytes);
    return bytes;
}

std::optional<std::string> unpack_callsign(const header_bytes& bytes)
{
    const auto end = bytes.begin() + MAX_CALLSIGN;
    const auto zero = std::find(bytes.begin(), end, 0);
    const std::string callsign(bytes.begin(), zero);
    const bool characters = std::all_of(callsign.begin(), callsign.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '-';
    });
    const bool padded = std::all_of(zero, end, [](uint8_t byte) { return byte == 0; });
    if (!intact(bytes) || !characters || !padded || callsign.size() < MIN_CALLSIGN)
        return std::nullopt;
    return callsign;
}

header_code::header_code(uint32_t seed)
    : d_scramble(qpsk_sequence(HEADER_ELEMENTS, seed)),
      d_order(scattered_order(CODED))
{
}

header_bytes header_code::decode(const std::vector<gr_complex>& elements) const
{
    // Adds the copies and restores the order of the code; positive for 0.
    std::array<float, CODED> soft{};
    for (int i = 0; i < HEADER_ELEMENTS; i++) {
        const gr_complex value = elements[i] * std::conj(d_scramble[i]);
        const int symbol = symbol_of(i);
        soft[d_order[2 * symbol]] += value.real();
        soft[d_order[2 * symbol + 1]] += value.imag();
    }

    std::vector<float> wrapped;
    for (int i = RATE * (HEADER_BITS - WRAP); i < RATE * (2 * HEADER_BITS + WRAP); i++)
        wrapped.push_back(soft[i % CODED]);
    const std::vector<uint8_t> bits = viterbi(wrapped);

    header_bytes bytes{};
    for (int i = 0; i < HEADER_BITS; i++)
        bytes[i / 8] = bytes[i / 8] << 1 | bits[WRAP + i];
    return bytes;
}

std::vector<gr_complex> header_code::encode(const header_bytes& bytes) const
{
    std::array<int, HEADER_BITS> bits;
    for (int i = 0; i < HEADER_BITS; i++)
        bits[i] = bytes[i / 8] >> (7 - i % 8) & 1;
    int state = 0;
    for (int i = HEADER_BITS - MEMORY; i < HEADER_BITS; i++)
        state = (bits[i] << MEMORY | state) >> 1;
    std::array<float, CODED> signs;
    for (int i = 0; i < HEADER_BITS; i++) {
        const int reg = bits[i] << MEMORY | state;
        for (int j = 0; j < RATE; j++)
            signs[RATE * i + j] = coded(reg) >> (RATE - 1 - j) & 1 ? -1 : 1;
        state = reg >> 1;
    }
    std::vector<gr_complex> elements;
    for (int i = 0; i < HEADER_ELEMENTS; i++) {
        const int symbol = symbol_of(i);
        elements.push_back(
            gr_complex(signs[d_order[2 * symbol]], signs[d_order[2 * symbol + 1]]) *
            float(M_SQRT1_2) * d_scramble[i]);
    }
    return elements;
}

} // namespace diffjscc
} // namespace gr
