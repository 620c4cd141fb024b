/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_KNOWN_ELEMENTS_H
#define INCLUDED_DIFFJSCC_KNOWN_ELEMENTS_H

#include "ofdm_demodulator.h"
#include <numeric>

namespace gr {
namespace diffjscc {

/*!
 * What a receiver knows of a burst's resource elements, OFDM symbol by OFDM symbol: all of the
 * first ones, which were decoded and coded again, and the pilots of the others.
 */
class known_elements
{
public:
    /*!
     * \param received  the burst
     * \param whole  what its first OFDM symbols are known to hold, of unit modulus
     * \param lost  of each OFDM symbol: whether nothing of it came, so that nothing is known;
     *              empty where all came
     */
    known_elements(const preset& parameters,
                   const resource_grid& received,
                   const resource_grid& whole,
                   const std::vector<bool>& lost = {})
        : d_preset(parameters),
          d_whole(whole.cols()),
          d_all(whole.rows()),
          d_lost(lost)
    {
        std::iota(d_all.begin(), d_all.end(), 0);
        for (int symbol = 0; symbol < received.cols(); symbol++) {
            const auto& at = positions(symbol);
            Eigen::VectorXcf values(at.size());
            if (at.empty()) {
                d_seen.push_back(std::move(values));
                continue;
            }
            if (is_whole(symbol)) {
                values = received.col(symbol).cwiseProduct(whole.col(symbol).conjugate());
            } else {
                const auto& pilots = parameters.pilot_values[symbol % PILOT_SPACING];
                for (size_t p = 0; p < at.size(); p++)
                    values(p) = received(at[p], symbol) * std::conj(pilots[p]);
            }
            d_count += values.size();
            d_seen.push_back(std::move(values));
        }
    }

    int symbols() const { return d_seen.size(); }

    //! OFDM symbols that are known as a whole.
    int whole() const { return d_whole; }
    bool is_whole(int symbol) const { return symbol < d_whole; }

    //! All elements that are known.
    int count() const { return d_count; }

    //! The carriers, as indices, whose elements are known in a symbol.
    const std::vector<int>& positions(int symbol) const
    {
        if (!d_lost.empty() && d_lost[symbol])
            return d_none;
        return is_whole(symbol) ? d_all
                                : d_preset.pilot_positions[symbol % PILOT_SPACING];
    }

    //! What was received there, times the conjugate of what was sent: the channel and noise.
    const Eigen::VectorXcf& seen(int symbol) const { return d_seen[symbol]; }

private:
    const preset& d_preset;
    int d_whole, d_count = 0;
    std::vector<int> d_all, d_none;
    std::vector<bool> d_lost;
    std::vector<Eigen::VectorXcf> d_seen;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_KNOWN_ELEMENTS_H */
