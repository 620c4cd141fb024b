/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "ofdm_demodulator.h"
#include <volk/volk.h>
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

// Of a sample: sums of squares must fit a float.
constexpr float LARGEST_POWER = 1e30f;

} // namespace

ofdm_demodulator::ofdm_demodulator(const preset& parameters)
    : d_preset(parameters),
      d_fft(parameters.fft_len)
{
}

void ofdm_demodulator::take(const gr_complex* samples, int count, double cfo)
{
    d_samples.resize(MARGIN + count);
    gr_complex phase(std::polar(1.0, 2 * M_PI * cfo * MARGIN));
    const gr_complex step(std::polar(1.0, -2 * M_PI * cfo));
    volk_32fc_s32fc_x2_rotator_32fc(
        d_samples.data(), samples - MARGIN, step, &phase, MARGIN + count);
    for (auto& sample : d_samples)
        if (!(std::norm(sample) <= LARGEST_POWER))
            sample = 0;
}

void ofdm_demodulator::undo(const Eigen::VectorXd& phase, const Eigen::VectorXd& times)
{
    if (phase.size() < 2)
        return;
    // Before the first time and behind the last the phase goes on as between the two nearest.
    int next = 1;
    for (int n = -MARGIN; n < count(); n++) {
        while (n > times(next) && next < times.size() - 1)
            next++;
        const double share = (n - times(next - 1)) / (times(next) - times(next - 1));
        const double now = phase(next - 1) + share * (phase(next) - phase(next - 1));
        samples()[n] *= gr_complex(std::polar(1.0, -now));
    }
}

int ofdm_demodulator::begin(int symbol, int window) const
{
    return PREAMBLE_LEN + symbol * d_preset.symbol_len() + d_preset.cp_len + window;
}

resource_grid ofdm_demodulator::transform(int symbols, int window)
{
    const int fft_len = d_preset.fft_len, carriers = d_preset.carriers.size();
    const float scale = std::sqrt(float(carriers)) / fft_len;
    resource_grid grid(carriers, symbols);
    for (int symbol = 0; symbol < symbols; symbol++) {
        std::copy_n(samples() + begin(symbol, window), fft_len, d_fft.get_inbuf());
        d_fft.execute();
        for (int i = 0; i < carriers; i++)
            grid(i, symbol) =
                scale * d_fft.get_outbuf()[(d_preset.carriers[i] + fft_len) % fft_len];
    }
    return grid;
}

std::vector<bool> ofdm_demodulator::silent(int symbols, int window) const
{
    std::vector<bool> silent;
    for (int symbol = 0; symbol < symbols; symbol++) {
        const gr_complex* first = samples() + begin(symbol, window);
        silent.push_back(4 * std::count(first, first + d_preset.fft_len, gr_complex(0)) >
                         d_preset.fft_len);
    }
    return silent;
}

Eigen::VectorXd ofdm_demodulator::times(int symbols, int window) const
{
    Eigen::VectorXd times(symbols);
    for (int symbol = 0; symbol < symbols; symbol++)
        times(symbol) = begin(symbol, window) + (d_preset.fft_len - 1) / 2.0;
    return times;
}

} // namespace diffjscc
} // namespace gr
