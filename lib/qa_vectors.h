/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_QA_VECTORS_H
#define INCLUDED_DIFFJSCC_QA_VECTORS_H

// Boost's own JSON parser warns of Boost's placeholders without this.
#define BOOST_BIND_GLOBAL_PLACEHOLDERS

#include <gnuradio/gr_complex.h>
#include <boost/property_tree/json_parser.hpp>
#include <boost/property_tree/ptree.hpp>
#include <complex>
#include <string>
#include <vector>

/*
 * The test vectors that src/diffjscc/air/vectors.py makes, and the types that they hold.
 * DIFFJSCC_VECTORS is the file's path.
 */
namespace gr {
namespace diffjscc {

using json = boost::property_tree::ptree;

inline const json& vectors()
{
    static const json content = [] {
        json read;
        boost::property_tree::read_json(DIFFJSCC_VECTORS, read);
        return read;
    }();
    return content;
}

//! A list of numbers.
template <typename T>
std::vector<T> numbers(const json& list)
{
    std::vector<T> values;
    for (const auto& [key, value] : list)
        values.push_back(value.template get_value<T>());
    return values;
}

//! A list in which real and imaginary parts alternate.
inline std::vector<gr_complex> complex_numbers(const json& list)
{
    const auto parts = numbers<float>(list);
    std::vector<gr_complex> values;
    for (size_t i = 0; i + 1 < parts.size(); i += 2)
        values.emplace_back(parts[i], parts[i + 1]);
    return values;
}

//! Digits k, as the unit values e^{jπ(k + offset)/2}.
inline std::vector<gr_complex> unit_values(const std::string& digits, float offset)
{
    std::vector<gr_complex> values;
    for (char digit : digits)
        values.push_back(std::polar(1.0f, float(M_PI / 2) * (digit - '0' + offset)));
    return values;
}

//! Digits q, as the QPSK symbols e^{jπ(2q+1)/4}.
inline std::vector<gr_complex> qpsk(const std::string& digits)
{
    return unit_values(digits, 0.5f);
}

//! Bytes in hexadecimal.
inline std::vector<uint8_t> bytes(const std::string& hex)
{
    std::vector<uint8_t> values;
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
        values.push_back(std::stoi(hex.substr(i, 2), nullptr, 16));
    return values;
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_QA_VECTORS_H */
