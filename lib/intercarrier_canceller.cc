/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "intercarrier_canceller.h"
#include <algorithm>

namespace gr {
namespace diffjscc {

using Eigen::VectorXcf;

intercarrier_canceller::intercarrier_canceller(const preset& parameters)
    : d_preset(parameters),
      d_forward(parameters.fft_len),
      d_backward(parameters.fft_len)
{
}

resource_grid intercarrier_canceller::operator()(const resource_grid& received,
                                                 const resource_grid& cleaned,
                                                 const resource_grid& whole,
                                                 const resource_grid& channel,
                                                 const Eigen::MatrixXf& noise_var)
{
    const int fft_len = d_preset.fft_len, symbols = received.cols();
    const int carriers = received.rows();
    const auto bin = [&](int i) { return (d_preset.carriers[i] + fft_len) % fft_len; };
    resource_grid result = received;
    for (int symbol = 0; symbol < symbols; symbol++) {
        const int before = std::max(symbol - 1, 0);
        const int after = std::min(symbol + 1, symbols - 1);
        if (before == after)
            break;
        const VectorXcf slope =
            (channel.col(after) - channel.col(before)) / float(after - before);
        VectorXcf sent(carriers);
        if (symbol < whole.cols()) {
            sent = whole.col(symbol);
        } else {
            sent =
                (cleaned.col(symbol).array() * channel.col(symbol).array().conjugate() /
                 (channel.col(symbol).array().abs2() + noise_var.col(symbol).array() +
                  1e-30f))
                    .matrix();
            const auto& at = d_preset.pilot_positions[symbol % PILOT_SPACING];
            for (size_t p = 0; p < at.size(); p++)
                sent(at[p]) = d_preset.pilot_values[symbol % PILOT_SPACING][p];
        }
        std::fill_n(d_backward.get_inbuf(), fft_len, 0);
        for (int i = 0; i < carriers; i++)
            d_backward.get_inbuf()[bin(i)] = slope(i) * sent(i);
        d_backward.execute();
        for (int n = 0; n < fft_len; n++)
            d_forward.get_inbuf()[n] =
                d_backward.get_outbuf()[n] *
                float((n - (fft_len - 1) / 2.0) / d_preset.symbol_len() / fft_len);
        d_forward.execute();
        for (int i = 0; i < carriers; i++)
            result(i, symbol) -= d_forward.get_outbuf()[bin(i)];
    }
    return result;
}

} // namespace diffjscc
} // namespace gr
