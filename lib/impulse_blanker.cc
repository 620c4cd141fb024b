/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "impulse_blanker.h"
#include <volk/volk.h>
#include <algorithm>
#include <array>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

// Of a sample's power over the mean of all: below it a sample is not looked at.
constexpr float SUSPICIOUS = 8;

// Over the local mean: an impulse, and a sample beside an impulse that belongs to it.
constexpr float IMPULSE = 14, BESIDE = 6;

// Samples on either side that the local mean is taken over.
constexpr int AROUND = 32;

} // namespace

// The mean power around a sample, by the median.
float impulse_blanker::local_power(int at) const
{
    const int count = d_power.size();
    const int first = std::max(0, std::min(at - AROUND, count - 2 * AROUND - 1));
    const int last = std::min(count, first + 2 * AROUND + 1);
    std::array<float, 2 * AROUND + 1> around;
    std::copy(d_power.begin() + first, d_power.begin() + last, around.begin());
    const auto middle = around.begin() + (last - first) / 2;
    std::nth_element(around.begin(), middle, around.begin() + (last - first));
    return *middle / float(M_LN2);
}

int impulse_blanker::operator()(gr_complex* samples, int count)
{
    d_power.resize(count);
    volk_32fc_magnitude_squared_32f(d_power.data(), samples, count);
    float sum = 0;
    volk_32f_accumulator_s32f(&sum, d_power.data(), count);
    const float suspicious = SUSPICIOUS * sum / std::max(count, 1);
    int blanked = 0;
    const auto blank = [&](int at) {
        blanked += samples[at] != gr_complex(0);
        samples[at] = 0;
    };
    for (int n = 0; n < count; n++) {
        if (d_power[n] <= suspicious)
            continue;
        const float local = local_power(n);
        // Silence around: nothing to compare with.
        if (local == 0 || d_power[n] <= IMPULSE * local)
            continue;
        blank(n);
        for (int at = n - 1; at >= 0 && d_power[at] > BESIDE * local; at--)
            blank(at);
        for (int at = n + 1; at < count && d_power[at] > BESIDE * local; at++)
            blank(at);
    }
    return blanked;
}

} // namespace diffjscc
} // namespace gr
