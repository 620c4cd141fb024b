/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_DETECTOR_IMPL_H
#define INCLUDED_DIFFJSCC_BURST_DETECTOR_IMPL_H

#include "line_excision.h"
#include "unknown_signal.h"
#include <gnuradio/diffjscc/burst_detector.h>
#include <gnuradio/fft/fft.h>
#include <volk/volk_alloc.hh>
#include <atomic>

namespace gr {
namespace diffjscc {

class burst_detector_impl : public burst_detector
{
public:
    burst_detector_impl(double false_alarm_rate, double max_offset);

    uint64_t detected() const override { return d_detected; }
    double threshold() const override { return d_threshold; }

    bool start() override;
    bool stop() override;
    int work(int noutput_items,
             gr_vector_const_void_star& input_items,
             gr_vector_void_star& output_items) override;

private:
    //! A position where both filters have a peak.
    struct candidate {
        int position; // index of the up-chirp's peak in the window of this call
        double metric;
    };

    void correlate(const gr_complex* in);
    float sum_energy();
    void examine(int position);
    void emit(const candidate& found);
    void look_for_unknown();
    void report(bool last);

    const double d_max_offset;
    // How far carrier offsets move the down-chirp's peak from its middle position, samples.
    const int d_reach;
    const double d_threshold;
    std::atomic<uint64_t> d_detected{ 0 };

    fft::fft_complex_fwd d_forward;
    fft::fft_complex_rev d_backward;
    line_excision d_excise;
    volk::vector<gr_complex> d_window, d_up_spectrum, d_down_spectrum;
    volk::vector<float> d_energy;                 // in each filter's window
    volk::vector<gr_complex> d_up, d_down;        // filter outputs c, of one scale
    volk::vector<float> d_up_power, d_down_power; // |c|^2 / (M energy), rho
    bool d_pending = false;
    candidate d_best{};
    unknown_signal d_unknown;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_DETECTOR_IMPL_H */
