/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_HEADER_CODE_H
#define INCLUDED_DIFFJSCC_HEADER_CODE_H

#include <gnuradio/gr_complex.h>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace gr {
namespace diffjscc {

constexpr int IMAGE_BYTES = 11;

struct burst_header {
    int length; //!< payload symbols, 1 … 8191
    std::array<uint8_t, IMAGE_BYTES> image;
};

/*!
 * The header's code (docs/air-interface.md, section 5): 128 bits with a CRC-24, a tail-biting convolutional code of rate
 * 1/3 and constraint length 7, four copies in QPSK. At 0.17 bits a resource element it is meant for -5 dB, where a
 * channel symbol carries 0.4.
 *
 * Tail-biting is decoded by one Viterbi pass over the block with WRAP bits of its other end at either side: six
 * constraint lengths, after which the state that it began in no longer matters. (gr-fec's decoder knows this constraint
 * length at rate 1/2 only, and gr-trellis keeps its algorithms to its blocks.)
 */
class header_code
{
public:
    header_code();

    /*!
     * \param elements  HEADER_ELEMENTS matched-filter outputs y·conj(h), which weigh each copy by its reliability
     * \returns the header, or nothing where the checksum, the version or the length is wrong
     */
    std::optional<burst_header> decode(const std::vector<gr_complex>& elements) const;

    //! The HEADER_ELEMENTS symbols that were sent.
    std::vector<gr_complex> encode(const burst_header& header) const;

private:
    std::vector<gr_complex> d_scramble;
    std::vector<int> d_order;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_HEADER_CODE_H */
