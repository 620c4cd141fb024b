/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_DEMODULATOR_IMPL_H
#define INCLUDED_DIFFJSCC_BURST_DEMODULATOR_IMPL_H

#include "burst_receiver.h"
#include "rate_limit.h"
#include "rejection_report.h"
#include <gnuradio/diffjscc/burst_demodulator.h>
#include <atomic>
#include <deque>

namespace gr {
namespace diffjscc {

class burst_demodulator_impl : public burst_demodulator
{
public:
    burst_demodulator_impl(int fft_len, int cp_len);

    uint64_t received() const override { return d_received; }
    uint64_t rejected() const override { return d_rejected; }
    uint64_t interrupted() const override { return d_interrupted; }

    bool start() override;
    void forecast(int noutput_items, gr_vector_int& ninput_items_required) override;
    int general_work(int noutput_items,
                     gr_vector_int& ninput_items,
                     gr_vector_const_void_star& input_items,
                     gr_vector_void_star& output_items) override;

private:
    //! A tagged sample, and what was found there.
    struct detection {
        uint64_t sample;
        double cfo;
        double metric;
        bool read = false;
        std::optional<burst_start> start = {}; // nothing where no header can be read
        bool duplicate = false; // another detection of the same burst is better
    };

    //! A payload on its way to the outputs.
    struct finished {
        burst_header header;
        burst_payload payload;
        uint64_t sample; // of the input, where it begins
        size_t sent = 0;
        bool tagged = false;
    };

    static std::optional<detection> parse(const tag_t& tag);
    void take(const gr_complex* in, int count);
    bool read_header(detection& found);
    static bool outlasts(const burst_start& burst, const burst_start& next);
    bool find_end(uint64_t& usable);
    bool look();
    void forget();
    void report();
    void report_rejected();
    void report_interrupted();
    const gr_complex* at(uint64_t sample) const
    {
        return d_samples.data() + (sample - d_first);
    }
    uint64_t end() const { return d_first + d_samples.size(); }
    void send(gr_complex* symbols,
              float* noise_var,
              int room,
              gr_complex* channel,
              int channel_room);

    burst_receiver d_receiver;
    std::atomic<uint64_t> d_received{ 0 }, d_rejected{ 0 }, d_interrupted{ 0 };
    rejection_report d_report;
    // Not logged yet: bursts inside which samples were missing, and how many samples.
    uint64_t d_unreported = 0, d_lost = 0;
    rate_limit d_interruptions;
    std::vector<gr_complex> d_samples; // those that are still needed
    uint64_t d_first = 0;              // absolute index of the first of them
    std::deque<detection> d_detections;
    std::deque<finished> d_finished;
    bool d_busy = false; // whether the next call can do something without input
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_DEMODULATOR_IMPL_H */
