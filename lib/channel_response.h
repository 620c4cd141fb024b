/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_CHANNEL_RESPONSE_H
#define INCLUDED_DIFFJSCC_CHANNEL_RESPONSE_H

#include "preset.h"
#include <Eigen/Core>
#include <cmath>

namespace gr {
namespace diffjscc {

//! The matrix (carriers × cp_len) from taps, delayed by 0 … cp_len - 1 samples, to the
//! channel on the carriers.
inline Eigen::MatrixXcf channel_response(const preset& parameters)
{
    Eigen::MatrixXcf response(parameters.carriers.size(), parameters.cp_len);
    for (int i = 0; i < response.rows(); i++)
        for (int delay = 0; delay < response.cols(); delay++)
            response(i, delay) = std::polar(
                1.0f,
                float(-2 * M_PI * parameters.carriers[i] * delay / parameters.fft_len));
    return response;
}

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_CHANNEL_RESPONSE_H */
