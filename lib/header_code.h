/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_HEADER_CODE_H
#define INCLUDED_DIFFJSCC_HEADER_CODE_H

#include "air_interface.h"
#include <gnuradio/gr_complex.h>
#include <optional>
#include <string>
#include <vector>

namespace gr {
namespace diffjscc {

//! CRC-24 of RFC 4880, section 6.1.
uint32_t crc24(const uint8_t* data, int count);

//! The header's bits, highest first.
using header_bytes = std::array<uint8_t, HEADER_BITS / 8>;

//! The header's fields. The image's part is left to Python (src/diffjscc/air/header.py).
struct burst_header {
    int length; //!< payload symbols, 1 … MAX_PAYLOAD
    std::array<uint8_t, IMAGE_BITS / 8> image;
    bool with_callsign = false; //!< whether a callsign's block follows

    bool operator==(const burst_header& other) const
    {
        return length == other.length && image == other.image &&
               with_callsign == other.with_callsign;
    }

    //! The number that tells a transmitter's bursts from others', src/diffjscc/air/header.py.
    int session() const { return image[0] >> 3; }

    //! With version and checksum.
    header_bytes pack() const;

    //! Nothing where the checksum or the version is wrong, or the length is 0.
    static std::optional<burst_header> unpack(const header_bytes& bytes);
};

//! A callsign's block: its characters, zeros behind them, and the checksum.
header_bytes pack_callsign(const std::string& callsign);

//! Nothing where the checksum is wrong, or what is there is no callsign.
std::optional<std::string> unpack_callsign(const header_bytes& bytes);

/*!
 * The header's code (docs/air-interface.md, section 5): 128 bits with a CRC-24, a
 * tail-biting convolutional code of rate 1/3 and constraint length 7, four copies in
 * QPSK. It carries 0.17 bits a resource element, and is meant for -5 dB, where the
 * capacity is 0.4 bits.
 *
 * Decoding. The copies are added, which weighs each by its reliability if the input is
 * y·conj(h). A tail-biting code has no known first state. One Viterbi pass over the
 * block, extended at either end by WRAP bits of its other end, makes up for that: after
 * about six constraint lengths the surviving paths have merged, and the state that the
 * pass started from no longer matters. (gr-fec's decoder has this constraint length at
 * rate 1/2 only, and gr-trellis offers its algorithms as blocks only.)
 */
class header_code
{
public:
    //! \param seed  of the scrambling: the header's, or the callsign's
    explicit header_code(uint32_t seed = HEADER_SEED);

    /*!
     * \param elements  HEADER_ELEMENTS matched-filter outputs y·conj(h), at any level
     * \returns the likeliest bits, whether their checksum is right or not
     */
    header_bytes decode(const std::vector<gr_complex>& elements) const;

    //! The HEADER_ELEMENTS unit symbols that are sent for these bits.
    std::vector<gr_complex> encode(const header_bytes& bytes) const;

private:
    const std::vector<gr_complex> d_scramble;
    const std::vector<int> d_order;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_HEADER_CODE_H */
