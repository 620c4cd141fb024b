/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_QA_SIGNALS_H
#define INCLUDED_DIFFJSCC_QA_SIGNALS_H

#include "chirp.h"
#include "ofdm_demodulator.h"
#include "sequences.h"
#include <cmath>
#include <random>
#include <vector>

/*
 * Signals that the C++ tests send.
 */
namespace gr {
namespace diffjscc {

//! Complex Gaussian values of some variance.
class gaussian
{
public:
    explicit gaussian(int seed) : d_random(seed) {}

    gr_complex operator()(double variance)
    {
        const float scale = std::sqrt(variance / 2);
        const float real = d_normal(d_random), imag = d_normal(d_random);
        return gr_complex(scale * real, scale * imag);
    }

    std::vector<gr_complex> operator()(double variance, int count)
    {
        std::vector<gr_complex> values(count);
        for (auto& value : values)
            value = (*this)(variance);
        return values;
    }

private:
    std::mt19937 d_random;
    std::normal_distribution<float> d_normal;
};

//! The preamble of a burst.
inline std::vector<gr_complex> preamble()
{
    std::vector<gr_complex> samples;
    for (int n = 0; n < PREAMBLE_LEN; n++) {
        const gr_complex value(chirp(n % CHIRP_LEN));
        samples.push_back(n < CHIRP_LEN ? value : std::conj(value));
    }
    return samples;
}

//! A burst's resource elements as they are sent: header and pilots of unit modulus, Gaussian
//! data of unit power.
inline resource_grid sent_grid(const preset& parameters, int symbols, int seed)
{
    gaussian random(seed);
    resource_grid grid(parameters.carriers.size(), symbols);
    for (int symbol = 0; symbol < symbols; symbol++) {
        const int pattern = symbol % PILOT_SPACING;
        for (int i : parameters.data_positions[pattern]) {
            const gr_complex value = random(1.0);
            const bool in_header = symbol < parameters.header_symbols;
            grid(i, symbol) = in_header ? value / std::abs(value) : value;
        }
        const auto& positions = parameters.pilot_positions[pattern];
        for (size_t p = 0; p < positions.size(); p++)
            grid(positions[p], symbol) = parameters.pilot_values[pattern][p];
    }
    return grid;
}

//! The same with Gaussian noise on each resource element.
inline resource_grid noisy(resource_grid grid, double noise_var, int seed)
{
    gaussian random(seed);
    for (int symbol = 0; symbol < grid.cols(); symbol++)
        for (int i = 0; i < grid.rows(); i++)
            grid(i, symbol) += random(noise_var);
    return grid;
}

//! The channel on the carriers of an echo with this gain and delay, samples.
inline Eigen::VectorXcf echo(const preset& parameters, gr_complex gain, double delay)
{
    Eigen::VectorXcf channel(parameters.carriers.size());
    for (int i = 0; i < channel.size(); i++)
        channel(i) = gain * gr_complex(std::polar(1.0,
                                                  -2 * M_PI * parameters.carriers[i] *
                                                      delay / parameters.fft_len));
    return channel;
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_QA_SIGNALS_H */
