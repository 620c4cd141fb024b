/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_receiver.h"
#include <algorithm>
#include <cmath>
#include <limits>

namespace gr {
namespace diffjscc {

namespace {

// What the detector's carrier offset may be wrong by, radians/sample; at -5 dB the
// standard deviation is 1.4e-3.
constexpr double OFFSET_SEARCH = 5e-3;

// And what may be left of it once the header's pilots have been used.
constexpr double FINER_SEARCH = 1e-3;

// Places in a burst where samples are missing; more are not looked for.
constexpr int MAX_LOSSES = 3;

// A moving channel that turns by more from one OFDM symbol to the next, radians, is turned
// back before it is estimated again.
constexpr double LEAST_DRIFT = 0.1;

} // namespace

burst_receiver::burst_receiver(int fft_len, int cp_len)
    : d_preset(fft_len, cp_len),
      d_callsign_code(CALLSIGN_SEED),
      d_ofdm(d_preset),
      d_preamble(d_preset),
      d_phase(d_preset),
      d_channel(d_preset),
      d_equaliser(d_preset),
      d_noise(d_preset),
      d_tones(header_span()),
      d_search(d_preset, d_channel.basis()),
      d_slips(d_preset)
{
}

int burst_receiver::header_span() const
{
    // There is always at least one payload symbol, and its pilots help.
    return burst_span(1);
}

// OFDM symbols before the payload. A callsign takes as many as the header.
int burst_receiver::symbols_in_front(bool with_callsign) const
{
    return d_preset.header_symbols * (with_callsign ? 2 : 1);
}

int burst_receiver::burst_span(int length, bool with_callsign) const
{
    const int symbols =
        symbols_in_front(with_callsign) + d_preset.payload_symbols(length);
    return PREAMBLE_LEN + symbols * d_preset.symbol_len();
}

std::optional<burst_start> burst_receiver::read_header(const gr_complex* samples,
                                                       double cfo)
{
    d_ofdm.take(samples, header_span(), cfo);
    std::vector<double> tones = d_tones.find(d_ofdm.samples());
    d_impulses(d_ofdm.samples(), d_ofdm.count());
    const auto [window, channel] = d_preamble.estimate(d_ofdm.samples());
    const int symbols = d_preset.header_symbols + 1;
    const resource_grid received = d_ofdm.transform(symbols, window);
    const Eigen::VectorXd times =
        d_ofdm.times(symbols, window).array() - preamble_estimator::TIME;
    double offset = d_phase.coarse_offset(received, channel, times, OFFSET_SEARCH);
    auto header = burst_header::unpack(
        d_code.decode(header_elements(received, channel, offset * times)));
    if (!header) {
        const Eigen::VectorXd phase = header_phases(received, channel);
        header = burst_header::unpack(
            d_code.decode(header_elements(received, channel, phase)));
        // The straight line through the phases.
        const Eigen::VectorXd centred = times.array() - times.mean();
        offset = centred.dot(phase) / centred.squaredNorm();
    }
    if (!header)
        return std::nullopt;
    for (double& tone : tones)
        tone += cfo;
    return burst_start{ *header,
                        window,
                        cfo + offset / (2 * M_PI),
                        channel.squaredNorm() / channel.size(),
                        tones };
}

// The header's data elements, matched to the channel and each symbol's phase.
std::vector<gr_complex>
burst_receiver::header_elements(const resource_grid& received,
                                const Eigen::VectorXcf& channel,
                                const Eigen::VectorXd& phase) const
{
    std::vector<gr_complex> elements;
    for (int symbol = 0; symbol < d_preset.header_symbols; symbol++) {
        const gr_complex turn(std::polar(1.0, -phase(symbol)));
        for (int i : d_preset.data_positions[symbol % PILOT_SPACING])
            elements.push_back(received(i, symbol) * std::conj(channel(i)) * turn);
    }
    return elements;
}

// A phase for each OFDM symbol of the header, and of the one behind it, from its pilots.
Eigen::VectorXd burst_receiver::header_phases(const resource_grid& received,
                                              const Eigen::VectorXcf& channel) const
{
    const known_elements pilots(d_preset, received, resource_grid(channel.size(), 0));
    const Eigen::MatrixXf even = Eigen::MatrixXf::Ones(channel.size(), received.cols());
    // The part of the pilots that is not in proportion to the channel is noise. Squares of
    // squares do not fit a float at all levels.
    double noise = 0;
    int freedom = 0;
    for (int symbol = 0; symbol < pilots.symbols(); symbol++) {
        const Eigen::VectorXcd expected =
            channel(pilots.positions(symbol)).cast<gr_complexd>();
        const Eigen::VectorXcd seen = pilots.seen(symbol).cast<gr_complexd>();
        noise += seen.squaredNorm() -
                 std::norm(expected.dot(seen)) / std::max(expected.squaredNorm(), 1e-60);
        freedom += seen.size() - 1;
    }
    return d_phases(pilots, channel, even, noise / freedom).phase;
}

// What the OFDM symbols hold that a burst begins with, pilots included.
resource_grid burst_receiver::sent_in_front(const std::vector<gr_complex>& elements) const
{
    const int symbols = elements.size() / d_preset.data_per_symbol;
    resource_grid sent(d_preset.carriers.size(), symbols);
    auto element = elements.begin();
    for (int symbol = 0; symbol < symbols; symbol++) {
        const int pattern = symbol % PILOT_SPACING;
        for (int i : d_preset.data_positions[pattern])
            sent(i, symbol) = *element++;
        const auto& positions = d_preset.pilot_positions[pattern];
        for (size_t p = 0; p < positions.size(); p++)
            sent(positions[p], symbol) = d_preset.pilot_values[pattern][p];
    }
    return sent;
}

// The callsign by the header's channel; empty where it cannot be read. The samples are
// taken, and times count from the header's middle.
std::string burst_receiver::read_callsign(const resource_grid& header,
                                          int window,
                                          const Eigen::VectorXd& times)
{
    const int in_header = d_preset.header_symbols, in_front = symbols_in_front(true);
    const resource_grid received = d_ofdm.transform(in_front, window);
    const Eigen::VectorXcf channel =
        d_channel.from_header(received.leftCols(in_header), header).channel;
    const double offset =
        d_phase.coarse_offset(received, channel, times.head(in_front), FINER_SEARCH);
    std::vector<gr_complex> elements;
    for (int symbol = in_header; symbol < in_front; symbol++) {
        const gr_complex turn(std::polar(1.0, -offset * times(symbol)));
        for (int i : d_preset.data_positions[symbol % PILOT_SPACING])
            elements.push_back(received(i, symbol) * std::conj(channel(i)) * turn);
    }
    return unpack_callsign(d_callsign_code.decode(elements)).value_or("");
}

burst_payload burst_receiver::read_payload(const gr_complex* samples,
                                           const burst_start& start,
                                           int usable)
{
    return read_payload(samples, start, usable, MAX_LOSSES);
}

// ``losses``: how many times samples may be missing still.
burst_payload burst_receiver::read_payload(const gr_complex* samples,
                                           const burst_start& start,
                                           int usable,
                                           int losses)
{
    const int in_header = d_preset.header_symbols;
    const int in_front = symbols_in_front(start.header.with_callsign);
    const int length = start.header.length;
    // OFDM symbols whose FFT lies before the end of what is usable.
    const int symbols = std::clamp((usable - PREAMBLE_LEN) / d_preset.symbol_len(),
                                   in_front,
                                   in_front + d_preset.payload_symbols(length));
    d_ofdm.take(samples, PREAMBLE_LEN + symbols * d_preset.symbol_len(), start.cfo);
    std::vector<double> tones = start.tones;
    for (double& tone : tones)
        tone -= start.cfo;
    d_tones.subtract(d_ofdm.samples(), d_ofdm.count(), tones);
    d_impulses(d_ofdm.samples(), d_ofdm.count());
    std::vector<gr_complex> elements = d_code.encode(start.header.pack());
    const resource_grid header = sent_in_front(elements);
    // That of the header's channel estimate is the mean over the header.
    Eigen::VectorXd times = d_ofdm.times(symbols, start.window);
    const double reference = (times(0) + times(in_header - 1)) / 2;
    times.array() -= reference;
    // A callsign that was read is known, as the header is.
    std::string callsign;
    resource_grid sent = header;
    if (start.header.with_callsign)
        callsign = read_callsign(header, start.window, times);
    if (!callsign.empty()) {
        const auto more = d_callsign_code.encode(pack_callsign(callsign));
        elements.insert(elements.end(), more.begin(), more.end());
        sent = sent_in_front(elements);
    }

    resource_grid received;
    phase_plane plane{};
    channel_estimate estimate;
    for (int pass = 0; pass < 2; pass++) {
        received = d_ofdm.transform(symbols, start.window);
        const auto [channel, noise_var] =
            d_channel.from_header(received.leftCols(in_header), header);
        const double coarse =
            d_phase.coarse_offset(received, channel, times, FINER_SEARCH);
        d_phase.undo(received, { 0, coarse, 0 }, times);
        const phase_plane now = d_phase.plane(received, channel, noise_var, times);
        d_phase.undo(received, now, times);
        plane.offset += now.offset + coarse;
        plane.clock_offset = now.clock_offset;
        estimate = d_channel.from_burst(received, sent);
        const auto noise = d_noise(received,
                                   known_elements(d_preset, received, sent),
                                   estimate.channel,
                                   estimate.level);
        if (estimate.degree == 0 && !noise.uneven)
            break;
        const auto lost = pass > 0 || losses == 0 ? std::nullopt
                                                  : d_slips(d_ofdm.samples(),
                                                            d_ofdm.count(),
                                                            channel,
                                                            start.window,
                                                            in_front,
                                                            symbols);
        if (lost) {
            // With zeros in their place everything behind comes in time again.
            std::vector<gr_complex> mended(samples - MARGIN, samples + usable);
            mended.insert(mended.begin() + MARGIN + lost->at, lost->missing, 0);
            burst_payload payload = read_payload(
                mended.data() + MARGIN, start, usable + lost->missing, losses - 1);
            payload.missing += lost->missing;
            return payload;
        }
        std::vector<bool> gone = d_ofdm.silent(symbols, start.window);
        // What could be decoded came.
        std::fill_n(gone.begin(), in_front, false);
        if (pass == 0) {
            const searched_channel first = d_search(received, sent, 1, gone);
            const bool drifts = std::abs(first.drift) > LEAST_DRIFT;
            if (drifts || first.phase.size()) {
                // Samples are turned back, so that it holds within OFDM symbols too.
                const double drift = drifts ? first.drift / d_preset.symbol_len() : 0;
                Eigen::VectorXd phase =
                    now.phase + (coarse + now.offset + drift) * times.array();
                if (!drifts)
                    phase += first.phase;
                d_ofdm.undo(phase, times.array() + reference);
                plane.offset += drift;
                continue;
            }
        }
        const searched_channel found =
            d_search(received, sent, channel_search::ENOUGH, gone);
        estimate = found.estimate;
        received = found.received;
        for (int symbol = 0; symbol < symbols; symbol++)
            if (gone[symbol])
                estimate.noise_var.col(symbol).setConstant(
                    std::numeric_limits<float>::infinity());
        break;
    }

    burst_payload payload{ d_equaliser(received, estimate, in_front, length) };
    payload.callsign = callsign;
    payload.snr_db = estimate.snr_db;
    payload.cfo = start.cfo + plane.offset / (2 * M_PI);
    // Samples that come late turn the phase of high carriers back.
    payload.clock_offset = -plane.clock_offset;
    payload.channel.assign(d_preset.fft_len, 0);
    for (size_t i = 0; i < d_preset.carriers.size(); i++)
        payload.channel[d_preset.carriers[i] + d_preset.fft_len / 2] = estimate.middle(i);
    return payload;
}

} // namespace diffjscc
} // namespace gr
