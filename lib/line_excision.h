/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_LINE_EXCISION_H
#define INCLUDED_DIFFJSCC_LINE_EXCISION_H

#include <gnuradio/gr_complex.h>
#include <volk/volk.h>
#include <algorithm>
#include <cmath>
#include <vector>

namespace gr {
namespace diffjscc {

/*!
 * Removes narrow lines, such as unmodulated carriers and a receiver's DC, from a spectrum.
 *
 * The power of one bin of noise, or of a burst, is exponential about a mean that varies
 * little over the band; its median is ln 2 of that mean, and lines, which fill a small part
 * of the band, hardly move it. A bin above LOUD means is taken for a line and becomes 0. In
 * noise alone that happens to one bin in e^LOUD = 160 000, so to one spectrum of 2048 bins
 * in 80.
 *
 * A carrier that lies between two bins leaks: d bins away it is 1/(πd)² of its power, and
 * all bins where that exceeds LOUD means go with it. For a carrier 10 dB above a burst these
 * are ±13 of 2048 bins, 1.3 % of the band; at 30 dB above, 12 %. What stays of the leakage
 * lies in the first and the last samples of the block.
 *
 * Where a carrier is switched on or off within the block, what stays of it lies there too, and
 * one that is 30 dB above the noise may then be taken for a preamble, once.
 *
 * Holds while lines take less than half of the bins, and where bursts fill more than half.
 */
class line_excision
{
public:
    static constexpr float LOUD = 12;

    //! \param bins  of a spectrum, a multiple of STRIDE
    explicit line_excision(int bins) : d_some(bins / STRIDE) {}

    /*!
     * \param spectrum  the bins
     * \param power  |spectrum|²
     * \returns how many bins became 0
     */
    int operator()(gr_complex* spectrum, const float* power)
    {
        // Every STRIDE-th bin is enough for a median, to 6 %.
        for (size_t i = 0; i < d_some.size(); i++)
            d_some[i] = power[STRIDE * i];
        const auto middle = d_some.begin() + d_some.size() / 2;
        std::nth_element(d_some.begin(), middle, d_some.end());
        const float limit = LOUD / float(M_LN2) * *middle;
        const size_t bins = STRIDE * d_some.size();
        uint32_t loudest = 0;
        volk_32f_index_max_32u(&loudest, power, bins);
        if (!(power[loudest] > limit))
            return 0;
        int removed = 0;
        for (size_t i = 0; i < bins; i++) {
            if (power[i] > limit) {
                spectrum[i] = 0;
                removed++;
            }
        }
        return removed;
    }

private:
    static constexpr size_t STRIDE = 8;

    std::vector<float> d_some;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_LINE_EXCISION_H */
