/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "equaliser.h"
#include "sequences.h"
#include <algorithm>
#include <limits>

namespace gr {
namespace diffjscc {

equaliser::equaliser(const preset& parameters)
    : d_preset(parameters),
      d_scramble(qpsk_sequence(MAX_PAYLOAD, PAYLOAD_SEED))
{
}

equalised_payload equaliser::operator()(const resource_grid& received,
                                        const channel_estimate& estimate,
                                        int length) const
{
    equalised_payload payload;
    payload.symbols.assign(length, 0);
    payload.noise_var.assign(length, std::numeric_limits<float>::infinity());
    int at = 0;
    for (int symbol = d_preset.header_symbols; symbol < received.cols(); symbol++) {
        for (int i : d_preset.data_positions[symbol % PILOT_SPACING]) {
            if (at == length)
                break;
            const gr_complex h = estimate.channel(i, symbol);
            const float power = std::max(std::norm(h), 1e-30f);
            payload.symbols[at] =
                received(i, symbol) * std::conj(h * d_scramble[at]) / power;
            payload.noise_var[at] = estimate.noise_var(i, symbol) / power;
            at++;
        }
    }
    return payload;
}

} // namespace diffjscc
} // namespace gr
