/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "tone_canceller.h"
#include <volk/volk.h>
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

constexpr int MAX_TONES = 6;

// A peak over the mean around it, as the upper quartile gives it: ln 4 times the mean.
constexpr float THRESHOLD = 30.0f;

// Bins around a peak, on either side: those that are its own, and those it is compared with.
constexpr int OWN = 4, AROUND = 54;

int bins_for(int span)
{
    int bins = 1;
    while (bins < span)
        bins *= 2;
    return bins;
}

// Σ x e^{-j2πfn}, n from ``first`` on.
gr_complexd correlate(const gr_complex* samples, int first, int last, double frequency)
{
    gr_complexd sum = 0;
    gr_complexd turn = std::polar(1.0, -2 * M_PI * frequency * first);
    const gr_complexd step = std::polar(1.0, -2 * M_PI * frequency);
    for (int n = first; n < last; n++) {
        sum += gr_complexd(samples[n]) * turn;
        turn *= step;
    }
    return sum;
}

void take_away(gr_complex* samples, int count, double frequency)
{
    gr_complexd turn = correlate(samples, 0, count, frequency) / double(count);
    const gr_complexd step = std::polar(1.0, 2 * M_PI * frequency);
    for (int n = 0; n < count; n++) {
        samples[n] -= gr_complex(turn);
        turn *= step;
    }
}

} // namespace

tone_canceller::tone_canceller(int span)
    : d_span(span),
      d_fft(bins_for(span)),
      d_power(bins_for(span))
{
}

double
tone_canceller::refine(const gr_complex* samples, int count, double frequency) const
{
    int used = std::min(count, d_span);
    while (true) {
        const int half = used / 2;
        // Twice: the first step moves the tone to where both halves see it whole.
        for (int i = 0; i < 2; i++) {
            const gr_complexd first = correlate(samples, 0, half, frequency);
            const gr_complexd second = correlate(samples, half, 2 * half, frequency);
            frequency += std::arg(second * std::conj(first)) / (2 * M_PI * half);
        }
        if (used == count)
            return frequency;
        used = std::min(2 * used, count);
    }
}

std::vector<double> tone_canceller::find(gr_complex* samples)
{
    std::vector<double> tones;
    const int bins = d_power.size();
    while (int(tones.size()) < MAX_TONES) {
        std::copy_n(samples, d_span, d_fft.get_inbuf());
        std::fill(d_fft.get_inbuf() + d_span, d_fft.get_inbuf() + bins, 0);
        d_fft.execute();
        volk_32fc_magnitude_squared_32f(d_power.data(), d_fft.get_outbuf(), bins);
        const int peak =
            std::max_element(d_power.begin(), d_power.end()) - d_power.begin();
        d_around.clear();
        for (int i = OWN; i < AROUND; i++) {
            d_around.push_back(d_power[(peak + i) % bins]);
            d_around.push_back(d_power[(peak + bins - i) % bins]);
        }
        const auto quartile = d_around.begin() + d_around.size() * 3 / 4;
        std::nth_element(d_around.begin(), quartile, d_around.end());
        const float level = *quartile / float(std::log(4.0));
        if (!(d_power[peak] > THRESHOLD * level))
            break;
        const double frequency = refine(samples, d_span, double(peak) / bins);
        take_away(samples, d_span, frequency);
        tones.push_back(frequency);
    }
    return tones;
}

void tone_canceller::subtract(gr_complex* samples,
                              int count,
                              const std::vector<double>& tones) const
{
    for (double tone : tones)
        take_away(samples, count, refine(samples, count, tone));
}

} // namespace diffjscc
} // namespace gr
