/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "equaliser.h"
#include "sequences.h"
#include <algorithm>
#include <cmath>
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
                                        int first,
                                        int length) const
{
    equalised_payload payload;
    payload.symbols.assign(length, 0);
    payload.noise_var.assign(length, std::numeric_limits<float>::infinity());
    int at = 0;
    for (int symbol = first; symbol < received.cols(); symbol++) {
        for (int i : d_preset.data_positions[symbol % PILOT_SPACING]) {
            if (at == length)
                break;
            const gr_complex h = estimate.channel(i, symbol);
            const float power = std::max(std::norm(h), 1e-30f);
            const gr_complex value =
                received(i, symbol) * std::conj(h * d_scramble[at]) / power;
            const float noise_var = estimate.noise_var(i, symbol) / power;
            // Where levels within a burst differ by more than a float holds, nothing came.
            if (std::isfinite(value.real()) && std::isfinite(value.imag()) &&
                noise_var >= 0) {
                payload.symbols[at] = value;
                payload.noise_var[at] = noise_var;
            }
            at++;
        }
    }
    return payload;
}

} // namespace diffjscc
} // namespace gr
