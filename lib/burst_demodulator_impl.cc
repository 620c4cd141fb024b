/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_demodulator_impl.h"
#include "chirp.h"
#include <gnuradio/io_signature.h>
#include <pmt/pmt.h>
#include <algorithm>

namespace gr {
namespace diffjscc {

namespace {

// Payloads that may wait for room in the output before input is held back.
constexpr size_t MAX_FINISHED = 2;

} // namespace

burst_demodulator::sptr burst_demodulator::make(int fft_len, int cp_len)
{
    return gnuradio::make_block_sptr<burst_demodulator_impl>(fft_len, cp_len);
}

burst_demodulator_impl::burst_demodulator_impl(int fft_len, int cp_len)
    : gr::block("burst_demodulator",
                gr::io_signature::make(1, 1, sizeof(gr_complex)),
                gr::io_signature::make3(2, 3, sizeof(gr_complex), sizeof(float), sizeof(gr_complex))),
      d_receiver(fft_len, cp_len)
{
    set_tag_propagation_policy(TPP_DONT);
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

void burst_demodulator_impl::take(const gr_complex* in, int count)
{
    std::vector<tag_t> tags;
    get_tags_in_window(tags, 0, 0, count, pmt::intern("burst"));
    std::sort(tags.begin(), tags.end(), tag_t::offset_compare);
    for (const auto& tag : tags)
        if (pmt::is_dict(tag.value))
            d_detections.push_back(
                { tag.offset, pmt::to_double(pmt::dict_ref(tag.value, pmt::intern("cfo"), pmt::from_double(0))) });
    d_samples.insert(d_samples.end(), in, in + count);
    consume(0, count);
}

// False while samples are missing.
bool burst_demodulator_impl::read_header(detection& found)
{
    if (!found.read) {
        if (end() < found.sample + d_receiver.header_span())
            return false;
        found.header = d_receiver.read_header(at(found.sample), found.cfo);
        found.read = true;
        (found.header ? d_received : d_rejected)++;
    }
    return true;
}

// Deals with the first detection; false while samples are missing, or when there is none.
bool burst_demodulator_impl::look()
{
    if (d_detections.empty() || !read_header(d_detections.front()))
        return false;
    detection& burst = d_detections.front();
    if (burst.header) {
        const uint64_t span = d_receiver.burst_span(burst.header->length);
        // Another burst inside cuts this one short; samples past its header tell.
        uint64_t usable = span;
        for (size_t i = 1; i < d_detections.size() && usable == span; i++) {
            if (d_detections[i].sample >= burst.sample + span)
                break;
            if (!read_header(d_detections[i]))
                return false;
            if (d_detections[i].header)
                usable = d_detections[i].sample - burst.sample;
        }
        if (end() < burst.sample + usable)
            return false;
        if (d_receiver.header_span() <= int(usable)) {
            // The receiver must hold this burst's header again: another may have been read in between.
            d_receiver.read_header(at(burst.sample), burst.cfo);
            d_finished.push_back(
                { *burst.header, d_receiver.read_payload(at(burst.sample), *burst.header, int(usable)) });
        }
    }
    d_detections.pop_front();
    return true;
}

// Drops samples that nothing will ask for again.
void burst_demodulator_impl::forget()
{
    const uint64_t needed = d_detections.empty() ? end() : d_detections.front().sample;
    const size_t done = needed - burst_receiver::MARGIN - d_first;
    // Moving the rest costs as much as it holds: not for a few samples.
    if (done > 4096 || (done > 0 && d_detections.empty())) {
        d_samples.erase(d_samples.begin(), d_samples.begin() + done);
        d_first += done;
    }
}

void burst_demodulator_impl::send(
    gr_complex* symbols, float* noise_var, int room, gr_complex* channel, int channel_room)
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
            };
            for (const auto& [key, value] : tags)
                add_item_tag(0, offset, pmt::intern(key), value, alias_pmt());
            const int fft_len = payload.channel.size();
            if (channels + fft_len <= channel_room) {
                add_item_tag(2, nitems_written(2) + channels, pmt::intern("packet_len"), pmt::from_long(fft_len));
                std::copy(payload.channel.begin(), payload.channel.end(), channel + channels);
                channels += fft_len;
            }
            burst.tagged = true;
        }
        const int count = std::min<size_t>(room - sent, payload.symbols.size() - burst.sent);
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
    // Where the limit and not a lack of samples ended that, there is work to do without more input: at a stream's end
    // there is none.
    d_busy = !d_finished.empty();
    forget();
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
