/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "slip_finder.h"
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

// Over the mean match before: what parts matches from others, how far below it the others
// are on average, and what must be reached behind the loss.
constexpr double LOW = 0.5, LEAST_GAIN = 0.25, HIGH = 0.6;

// In noise that strong, signals are not told from others; at 0 dB the match is 0.5.
constexpr double LEAST_MATCH = 0.45;

// Symbols behind the loss that are compared: at most, and at least.
constexpr int COMPARED = 6, LEAST = 1;

// Pilots behind the loss that must not match.
constexpr int LEAST_PILOTS = 32;

// Samples to either side of what the prefixes show.
constexpr int NEAR = 4;

// Steps over the two symbols around the loss.
constexpr int PLACES = 32;

} // namespace

slip_finder::slip_finder(const preset& parameters)
    : d_preset(parameters),
      d_fft(parameters.fft_len)
{
}

int slip_finder::begin(int symbol) const
{
    return PREAMBLE_LEN + symbol * d_preset.symbol_len();
}

// How well a symbol's pilots match that symbol and the channel, 0 to 1.
double slip_finder::match(const gr_complex* prefix,
                          int symbol,
                          const Eigen::VectorXcf& channel,
                          int window)
{
    std::copy_n(prefix + d_preset.cp_len + window, d_preset.fft_len, d_fft.get_inbuf());
    d_fft.execute();
    const auto& positions = d_preset.pilot_positions[symbol % PILOT_SPACING];
    const auto& values = d_preset.pilot_values[symbol % PILOT_SPACING];
    gr_complexd sum = 0;
    double seen = 0, expected = 0;
    for (size_t p = 0; p < positions.size(); p++) {
        const int k = d_preset.carriers[positions[p]];
        const gr_complexd y(
            d_fft.get_outbuf()[(k + d_preset.fft_len) % d_preset.fft_len]);
        const gr_complexd h(channel(positions[p]));
        sum += y * std::conj(h * gr_complexd(values[p]));
        seen += std::norm(y);
        expected += std::norm(h);
    }
    return seen > 0 && expected > 0 ? std::norm(sum) / (seen * expected) : 0;
}

// Where OFDM symbols begin behind ``samples``, by ``symbols`` cyclic prefixes.
int slip_finder::aligned(const gr_complex* samples, int symbols) const
{
    const int length = d_preset.symbol_len();
    int best = 0;
    double most = -1;
    for (int offset = 0; offset < length; offset++) {
        gr_complexd sum = 0;
        for (int symbol = 0; symbol < symbols; symbol++) {
            const gr_complex* prefix = samples + offset + symbol * length;
            for (int n = 0; n < d_preset.cp_len; n++)
                sum += gr_complexd(prefix[n + d_preset.fft_len] * std::conj(prefix[n]));
        }
        if (std::abs(sum) > most) {
            most = std::abs(sum);
            best = offset;
        }
    }
    return best;
}

std::optional<slip> slip_finder::operator()(const gr_complex* samples,
                                            int count,
                                            const Eigen::VectorXcf& channel,
                                            int window,
                                            int first,
                                            int symbols)
{
    const int length = d_preset.symbol_len();
    symbols = std::min(symbols, (count - PREAMBLE_LEN) / length);
    std::vector<double> matches;
    double usual = 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        matches.push_back(match(samples + begin(symbol), symbol, channel, window));
        if (symbol < first)
            usual += matches.back() / first;
    }
    if (usual < LEAST_MATCH)
        return std::nullopt;
    // The place that parts high from low matches best.
    int bad = symbols;
    double gain = 0, most_gained = 0;
    for (int symbol = symbols - 1; symbol >= first; symbol--) {
        gain += LOW * usual - matches[symbol];
        if (gain > most_gained) {
            most_gained = gain;
            bad = symbol;
        }
    }
    // Few pilots match by chance at times: as many as tell that they do not.
    const int pilots = d_preset.pilot_positions[0].size();
    if ((symbols - bad) * pilots < LEAST_PILOTS ||
        most_gained < LEAST_GAIN * usual * (symbols - bad))
        return std::nullopt;

    // One symbol further, whole symbols come, wherever in the bad one the loss is.
    const int behind = begin(bad + 1);
    const int compared = std::min(COMPARED, (count - behind) / length - 1);
    if (compared < LEAST)
        return std::nullopt;
    const int offset = aligned(samples + behind, compared);
    double best = HIGH * usual;
    int missing = 0;
    for (int symbol = bad + 1; symbol <= bad + 1 + PILOT_SPACING; symbol++) {
        for (int by = -NEAR; by <= NEAR; by++) {
            const int at = behind + offset + by;
            const int gap = begin(symbol) - at;
            if (gap <= 0 || at + compared * length > count)
                continue;
            double sum = 0;
            for (int i = 0; i < compared; i++)
                sum += match(samples + at + i * length, symbol + i, channel, window) /
                       compared;
            if (sum > best) {
                best = sum;
                missing = gap;
            }
        }
    }
    if (missing == 0)
        return std::nullopt;

    // The loss lies in the last symbol that matched, or in the first that did not.
    std::vector<gr_complex> piece;
    int place = begin(bad);
    double most = -1;
    for (int step = 0; step <= PLACES; step++) {
        const int at = begin(bad - 1) + 2 * length * step / PLACES;
        double sum = 0;
        for (int symbol : { bad - 1, bad }) {
            piece.assign(length + d_preset.cp_len, 0);
            for (int n = 0; n < length; n++) {
                const int sent = begin(symbol) + n;
                const int from = sent < at             ? sent
                                 : sent < at + missing ? -1
                                                       : sent - missing;
                if (from >= 0 && from < count)
                    piece[n] = samples[from];
            }
            sum += match(piece.data(), symbol, channel, window);
        }
        if (sum > most) {
            most = sum;
            place = at;
        }
    }
    return slip{ place, missing };
}

} // namespace diffjscc
} // namespace gr
