/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_AIR_INTERFACE_H
#define INCLUDED_DIFFJSCC_AIR_INTERFACE_H

#include <array>
#include <cstdint>

/*
 * The constants of the air interface: docs/air-interface.md, by its sections. The names
 * are those of src/diffjscc/air/{preset,header}.py, and qa_air_interface.cc compares the
 * values through tests/data/air_interface.json. Constants of this receiver's algorithms
 * do not belong here: another receiver may choose its own.
 */
namespace gr {
namespace diffjscc {

// Section 2, presets. A preset's own sizes are in preset.h.
constexpr double BANDWIDTH = 13.0 / 16.0; // occupied share of the sample rate

// Section 4, burst: the preamble in samples, the pilots in carriers.
constexpr int CHIRP_LEN = 128;
constexpr int PREAMBLE_LEN = 2 * CHIRP_LEN; // up-chirp, down-chirp
constexpr int PILOT_SPACING = 13;           // also the OFDM symbols until pilots repeat
constexpr int PILOT_STEP = 5;               // carriers that they move by in each symbol
constexpr int MAX_PAYLOAD = 8191;           // symbols

// Seeds of qpsk_sequence (section 3) for pilots, header elements and payload symbols.
constexpr uint32_t PILOT_SEED = 1, HEADER_SEED = 2, PAYLOAD_SEED = 3;
// And for the elements of the callsign.
constexpr uint32_t CALLSIGN_SEED = 4;

// Section 5, header.
constexpr int VERSION = 1;
constexpr int CALLSIGN_VERSION = 2; // a callsign's block follows the header
constexpr int MIN_CALLSIGN = 3, MAX_CALLSIGN = 13; // characters
constexpr int VERSION_BITS = 3;
constexpr int HEADER_BITS = 128;
constexpr int IMAGE_BITS = 88;
constexpr int CRC_BITS = 24;
constexpr uint32_t CRC_POLYNOMIAL = 0x1864CFB, CRC_INITIAL = 0xB704CE;
// Generators of the convolutional code; the highest bit takes the current bit.
constexpr std::array<int, 3> GENERATORS = { 0133, 0171, 0165 };
constexpr int CONSTRAINT = 7;
constexpr int HEADER_ELEMENTS = 768; // four copies of the coded header, as QPSK symbols
constexpr int COPY_SHIFT = 61;       // symbols that each copy is rotated by

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_AIR_INTERFACE_H */
