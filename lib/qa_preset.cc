/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "preset.h"
#include <boost/test/unit_test.hpp>
#include <algorithm>
#include <stdexcept>

namespace gr {
namespace diffjscc {

BOOST_AUTO_TEST_CASE(sizes_that_do_not_exist_are_refused)
{
    for (auto [fft_len, cp_len] : { std::pair(128, 16),
                                    { 0, 16 },
                                    { 64, 7 },
                                    { 64, 17 },
                                    { 256, 65 },
                                    { 256, -1 } })
        BOOST_CHECK_THROW(preset(fft_len, cp_len), std::invalid_argument);
    for (auto [fft_len, cp_len] : { std::pair(64, 8), { 64, 16 }, { 256, 64 } })
        BOOST_CHECK_NO_THROW(preset(fft_len, cp_len));
}

BOOST_AUTO_TEST_CASE(pilots_and_data_share_the_carriers)
{
    for (auto [fft_len, cp_len] : { std::pair(64, 16), { 256, 16 }, { 256, 64 } }) {
        const preset parameters(fft_len, cp_len);
        const int carriers = parameters.carriers.size();
        BOOST_TEST(carriers == fft_len * 13 / 16);
        std::vector<int> visits(carriers);
        for (int symbol = 0; symbol < PILOT_SPACING; symbol++) {
            std::vector<int> all = parameters.pilot_positions[symbol];
            for (int i : all)
                visits[i]++;
            const auto& data = parameters.data_positions[symbol];
            BOOST_TEST(int(data.size()) == parameters.data_per_symbol);
            BOOST_TEST(parameters.pilot_values[symbol].size() == all.size());
            all.insert(all.end(), data.begin(), data.end());
            std::sort(all.begin(), all.end());
            for (int i = 0; i < carriers; i++)
                BOOST_TEST(all[i] == i);
        }
        // The pattern visits every carrier once.
        BOOST_TEST(std::count(visits.begin(), visits.end(), 1) == carriers);
    }
}

BOOST_AUTO_TEST_CASE(the_header_fills_whole_ofdm_symbols)
{
    for (int fft_len : { 64, 256 }) {
        const preset parameters(fft_len, 16);
        BOOST_TEST(parameters.header_symbols * parameters.data_per_symbol ==
                   HEADER_ELEMENTS);
        const int data = parameters.data_per_symbol;
        BOOST_TEST(parameters.payload_symbols(1) == 1);
        BOOST_TEST(parameters.payload_symbols(data) == 1);
        BOOST_TEST(parameters.payload_symbols(data + 1) == 2);
    }
}

} // namespace diffjscc
} // namespace gr
