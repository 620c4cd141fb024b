/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_demodulator_impl.h"
#include "status.h"
#include <gnuradio/io_signature.h>
#include <pmt/pmt.h>
#include <algorithm>
#include <cmath>

namespace gr {
namespace diffjscc {

namespace {

// Payloads that may wait for room in the output before input is held back.
constexpr size_t MAX_FINISHED = 2;

// Samples that are no longer needed are removed once there are so many: moving the others
// takes time.
constexpr size_t FORGET = 4096;

// Of a stronger burst's power: what is below is weaker. Gains are measured to about 1 dB.
constexpr float WEAKER = 0.7f;

// A field of a dictionary, where it is a real number.
std::optional<double> number(const pmt::pmt_t& dict, const char* key)
{
    const auto value = pmt::dict_ref(dict, pmt::intern(key), pmt::PMT_NIL);
    if (!pmt::is_real(value) && !pmt::is_integer(value))
        return std::nullopt;
    return pmt::to_double(value);
}

} // namespace

burst_demodulator::sptr burst_demodulator::make(int fft_len, int cp_len)
{
    return gnuradio::make_block_sptr<burst_demodulator_impl>(fft_len, cp_len);
}

burst_demodulator_impl::burst_demodulator_impl(int fft_len, int cp_len)
    : gr::block("burst_demodulator",
                gr::io_signature::make(1, 1, sizeof(gr_complex)),
                gr::io_signature::make3(
                    2, 3, sizeof(gr_complex), sizeof(float), sizeof(gr_complex))),
      d_receiver(fft_len, cp_len)
{
    set_tag_propagation_policy(TPP_DONT);
    message_port_register_out(STATUS);
}

bool burst_demodulator_impl::start()
{
    d_samples.assign(burst_receiver::MARGIN, 0);
    d_first = nitems_read(0) - burst_receiver::MARGIN; // wraps below 0, and back again
    d_detections.clear();
    d_finished.clear();
    d_busy = false;
    return true;
}

void burst_demodulator_impl::forecast(int, gr_vector_int& ninput_items_required)
{
    ninput_items_required[0] = d_busy ? 0 : 1;
}

// Nothing for a tag that is not burst_detector's: other blocks may use the same name.
std::optional<burst_demodulator_impl::detection>
burst_demodulator_impl::parse(const tag_t& tag)
{
    if (!pmt::is_dict(tag.value))
        return std::nullopt;
    const auto cfo = number(tag.value, "cfo");
    if (!cfo || !(std::abs(*cfo) <= 0.5))
        return std::nullopt;
    return detection{ tag.offset, *cfo, number(tag.value, "metric").value_or(0) };
}

void burst_demodulator_impl::take(const gr_complex* in, int count)
{
    std::vector<tag_t> tags;
    get_tags_in_window(tags, 0, 0, count, pmt::intern("burst"));
    std::sort(tags.begin(), tags.end(), tag_t::offset_compare);
    for (const auto& tag : tags)
        if (const auto found = parse(tag))
            d_detections.push_back(*found);
    d_samples.insert(d_samples.end(), in, in + count);
    consume(0, count);
}

// Reads a detection's header, once; false while samples are missing.
bool burst_demodulator_impl::read_header(detection& found)
{
    if (!found.read) {
        if (end() < found.sample + d_receiver.header_span())
            return false;
        found.start = d_receiver.read_header(at(found.sample), found.cfo);
        found.read = true;
    }
    return true;
}

// Whether a burst goes on below another that begins inside it: that of another transmitter
// which is weaker. A transmitter that begins a burst has ended its last one, whatever the
// channel has made of its level since.
bool burst_demodulator_impl::outlasts(const burst_start& burst, const burst_start& next)
{
    return next.gain < WEAKER * burst.gain &&
           next.header.session() != burst.header.session();
}

// How many samples belong to the first burst: another that begins inside it cuts it
// short, where that one's header can be read and it is not weaker. False while samples are
// missing.
bool burst_demodulator_impl::find_end(uint64_t& usable)
{
    detection& burst = d_detections.front();
    const burst_header& header = burst.start->header;
    usable = d_receiver.burst_span(header.length, header.with_callsign);
    for (size_t i = 1; i < d_detections.size(); i++) {
        detection& next = d_detections[i];
        const uint64_t distance = next.sample - burst.sample;
        if (distance >= usable)
            break;
        if (!read_header(next))
            return false;
        if (!next.start || next.duplicate)
            continue;
        // The same header within a header: an echo beyond the prefix, found on its own.
        if (distance < uint64_t(d_receiver.header_span()) &&
            next.start->header == burst.start->header) {
            const bool weaker = next.start->gain <= burst.start->gain;
            (weaker ? next : burst).duplicate = true;
            if (weaker)
                continue;
        }
        if (outlasts(*burst.start, *next.start))
            continue;
        usable = distance;
    }
    return true;
}

// Deals with the first detection; false while samples are missing, or when there is none.
bool burst_demodulator_impl::look()
{
    if (d_detections.empty() || !read_header(d_detections.front()))
        return false;
    detection& burst = d_detections.front();
    if (burst.start && !burst.duplicate) {
        uint64_t usable;
        if (!find_end(usable))
            return false;
        if (!burst.duplicate) {
            if (end() < burst.sample + usable)
                return false;
            if (d_receiver.burst_span(1, burst.start->header.with_callsign) <=
                int(usable)) {
                d_finished.push_back({ burst.start->header,
                                       d_receiver.read_payload(
                                           at(burst.sample), *burst.start, int(usable)),
                                       burst.sample });
                if (const int lost = d_finished.back().payload.missing) {
                    d_interrupted++;
                    d_unreported++;
                    d_lost += lost;
                }
            }
        }
    }
    if (!burst.duplicate) {
        const bool readable = burst.start.has_value();
        (readable ? d_received : d_rejected)++;
        d_report.add(burst.metric, readable);
    }
    d_detections.pop_front();
    return true;
}

// Drops samples that nothing will ask for again.
void burst_demodulator_impl::forget()
{
    const uint64_t needed = d_detections.empty() ? end() : d_detections.front().sample;
    const size_t done = needed - burst_receiver::MARGIN - d_first;
    if (done > FORGET || (done > 0 && d_detections.empty())) {
        d_samples.erase(d_samples.begin(), d_samples.begin() + done);
        d_first += done;
    }
}

void burst_demodulator_impl::report()
{
    report_rejected();
    report_interrupted();
}

void burst_demodulator_impl::report_interrupted()
{
    if (!d_unreported || !d_interruptions.pass(rate_limit::clock::now()))
        return;
    const auto line = fmt::format(
        "{:d} samples are missing inside {:d} bursts: the computer or the connection to "
        "the radio is too slow for this sample rate",
        d_lost,
        d_unreported);
    d_logger->warn("{:s}", line);
    publish_status(*this, "interrupted", d_unreported, line);
    d_unreported = d_lost = 0;
}

void burst_demodulator_impl::report_rejected()
{
    if (!d_report.pending())
        return;
    const auto news = d_report.due(rate_limit::clock::now());
    if (!news)
        return;
    const auto line = fmt::format(
        "no readable header behind {:d} of {:d} preambles: the transmitter has another "
        "preset (this receiver: fft_len {:d}, cp_len {:d}), a sample rate more than 0.1 "
        "% "
        "off or a carrier further away than max_offset; or noise, interference or echoes "
        "are too strong",
        news->unreadable,
        news->unreadable + news->readable,
        d_receiver.parameters().fft_len,
        d_receiver.parameters().cp_len);
    d_logger->warn("{:s}", line);
    publish_status(*this, "rejected", news->unreadable, line);
}

void burst_demodulator_impl::send(gr_complex* symbols,
                                  float* noise_var,
                                  int room,
                                  gr_complex* channel,
                                  int channel_room)
{
    int sent = 0, channels = 0;
    while (!d_finished.empty() && sent < room) {
        finished& burst = d_finished.front();
        const burst_payload& payload = burst.payload;
        if (!burst.tagged) {
            const uint64_t offset = nitems_written(0) + sent;
            const auto& image = burst.header.image;
            const std::pair<const char*, pmt::pmt_t> tags[] = {
                { "packet_len", pmt::from_long(burst.header.length) },
                { "burst_header", pmt::init_u8vector(image.size(), image.data()) },
                { "snr_db", pmt::from_double(payload.snr_db) },
                { "cfo", pmt::from_double(payload.cfo) },
                { "clock_offset", pmt::from_double(payload.clock_offset) },
                { "burst_start", pmt::from_long(burst.sample) },
            };
            for (const auto& [key, value] : tags)
                add_item_tag(0, offset, pmt::intern(key), value, alias_pmt());
            if (!payload.callsign.empty())
                add_item_tag(0,
                             offset,
                             pmt::intern("callsign"),
                             pmt::intern(payload.callsign),
                             alias_pmt());
            if (payload.missing)
                add_item_tag(0,
                             offset,
                             pmt::intern("lost_samples"),
                             pmt::from_long(payload.missing),
                             alias_pmt());
            const int fft_len = payload.channel.size();
            if (channels + fft_len <= channel_room) {
                add_item_tag(2,
                             nitems_written(2) + channels,
                             pmt::intern("packet_len"),
                             pmt::from_long(fft_len));
                std::copy(
                    payload.channel.begin(), payload.channel.end(), channel + channels);
                channels += fft_len;
            }
            burst.tagged = true;
        }
        const int count =
            std::min<size_t>(room - sent, payload.symbols.size() - burst.sent);
        std::copy_n(payload.symbols.begin() + burst.sent, count, symbols + sent);
        std::copy_n(payload.noise_var.begin() + burst.sent, count, noise_var + sent);
        burst.sent += count;
        sent += count;
        if (burst.sent == payload.symbols.size())
            d_finished.pop_front();
    }
    produce(0, sent);
    produce(1, sent);
    if (channel)
        produce(2, channels);
}

int burst_demodulator_impl::general_work(int noutput_items,
                                         gr_vector_int& ninput_items,
                                         gr_vector_const_void_star& input_items,
                                         gr_vector_void_star& output_items)
{
    if (d_finished.size() < MAX_FINISHED && ninput_items[0] > 0)
        take(static_cast<const gr_complex*>(input_items[0]), ninput_items[0]);
    while (d_finished.size() < MAX_FINISHED && look())
        ;
    // Payloads that wait need no more input, and at a stream's end there is none.
    d_busy = !d_finished.empty();
    forget();
    report();
    const bool channels = output_items.size() > 2;
    send(static_cast<gr_complex*>(output_items[0]),
         static_cast<float*>(output_items[1]),
         noutput_items,
         channels ? static_cast<gr_complex*>(output_items[2]) : nullptr,
         channels ? noutput_items : 0);
    return WORK_CALLED_PRODUCE;
}

} // namespace diffjscc
} // namespace gr
