/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "burst_detector_impl.h"
#include "chirp.h"
#include "status.h"
#include <gnuradio/io_signature.h>
#include <pmt/pmt.h>
#include <volk/volk.h>
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace gr {
namespace diffjscc {

namespace {

constexpr int FFT_LEN = 2048;

// A candidate is a burst if no better one follows within so many samples.
constexpr int SETTLED = 48;

// Samples handled in one step. Positions are examined AHEAD of the samples that leave,
// since a burst's tag goes on a sample up to SETTLED + ECHOES_BEFORE + reach/2 before the
// position where it settles. The last position's preamble lies within the window.
constexpr int STEP = 1536;
constexpr int AHEAD = 112;

constexpr double LARGEST_OFFSET = 0.2;

// Echoes of a peak are looked for so far before and behind it, samples: as far as the
// demodulator can use them.
constexpr int ECHOES_BEFORE = 8, ECHOES_BEHIND = 16;

// Where the filter's power is below this share of the peak's, it is taken for noise.
constexpr float FAINTEST_ECHO = 0.125f;

// Positions where the up-chirp's lambda is lower are not examined. In noise 7 of 1000 are
// higher.
constexpr double FIRST_LOOK = 5.0;

// Of a sample: the filters' outputs, whose FFTs are not scaled, must fit a float when squared.
constexpr float LARGEST_POWER = 1e24f;

// Limit of rho, whose logarithm is taken.
constexpr float LARGEST_RHO = 0.999999f;

double checked_rate(double false_alarm_rate)
{
    if (!(false_alarm_rate > 0 && false_alarm_rate < 1))
        throw std::invalid_argument(
            "false_alarm_rate must be above 0 and below 1, such as 1e-9");
    return false_alarm_rate;
}

double checked_offset(double max_offset)
{
    if (!(max_offset > 0 && max_offset <= LARGEST_OFFSET))
        throw std::invalid_argument(
            "max_offset must be above 0 and at most 0.2 cycles/sample");
    return max_offset;
}

int reach_of(double max_offset)
{
    return static_cast<int>(std::ceil(2 * max_offset / SWEEP_RATE)) + 1;
}

// The threshold T for a false-alarm rate, by bisection: P(lambda_u + lambda_d > T) is (1
// + T) exp(-T) for one position of the down-chirp, and the union bound adds all of them.
double threshold_for(double rate, int positions)
{
    double low = 1, high = 200;
    for (int i = 0; i < 100; i++) {
        const double middle = (low + high) / 2;
        (positions * (1 + middle) * std::exp(-middle) > rate ? low : high) = middle;
    }
    return high;
}

double lambda(float rho)
{
    return -(CHIRP_LEN - 1) * std::log1p(-std::min(rho, LARGEST_RHO));
}

// Where a peak lies between samples, by the parabola through three of them: -0.5 to 0.5.
double parabola(float before, float peak, float after)
{
    const double curvature = before - 2.0 * peak + after;
    return curvature < 0 ? std::clamp(0.5 * (before - after) / curvature, -0.5, 0.5)
                         : 0.0;
}

} // namespace

burst_detector::sptr burst_detector::make(double false_alarm_rate, double max_offset)
{
    return gnuradio::make_block_sptr<burst_detector_impl>(false_alarm_rate, max_offset);
}

burst_detector_impl::burst_detector_impl(double false_alarm_rate, double max_offset)
    : gr::sync_block("burst_detector",
                     gr::io_signature::make(1, 1, sizeof(gr_complex)),
                     gr::io_signature::make(1, 1, sizeof(gr_complex))),
      d_max_offset(checked_offset(max_offset)),
      d_reach(reach_of(max_offset)),
      d_threshold(threshold_for(checked_rate(false_alarm_rate), 2 * d_reach + 1)),
      d_forward(FFT_LEN),
      d_backward(FFT_LEN),
      d_excise(FFT_LEN),
      d_window(FFT_LEN),
      d_up_spectrum(FFT_LEN),
      d_down_spectrum(FFT_LEN),
      d_energy(FFT_LEN),
      d_up(FFT_LEN),
      d_down(FFT_LEN),
      d_up_power(FFT_LEN),
      d_down_power(FFT_LEN)
{
    for (auto [spectrum, down] :
         { std::pair(&d_up_spectrum, false), std::pair(&d_down_spectrum, true) }) {
        std::fill_n(d_forward.get_inbuf(), FFT_LEN, gr_complex(0));
        for (int n = 0; n < CHIRP_LEN; n++) {
            const gr_complex value(chirp(n));
            d_forward.get_inbuf()[n] = down ? std::conj(value) : value;
        }
        d_forward.execute();
        std::copy_n(d_forward.get_outbuf(), FFT_LEN, spectrum->begin());
    }
    set_history(FFT_LEN - STEP + 1);
    set_output_multiple(STEP);
    set_tag_propagation_policy(TPP_ONE_TO_ONE);
    declare_sample_delay(FFT_LEN - STEP);
    message_port_register_out(STATUS);
}

bool burst_detector_impl::start()
{
    d_pending = false;
    d_unknown = {};
    return true;
}

bool burst_detector_impl::stop()
{
    report(true);
    return true;
}

void burst_detector_impl::correlate(const gr_complex* in)
{
    std::copy_n(in, FFT_LEN, d_window.begin());
    volk_32fc_magnitude_squared_32f(d_up_power.data(), d_window.data(), FFT_LEN);
    const double sum = std::accumulate(d_up_power.begin(), d_up_power.end(), 0.0);
    if (!(sum <= LARGEST_POWER)) {
        for (int n = 0; n < FFT_LEN; n++) {
            if (!(d_up_power[n] <= LARGEST_POWER)) {
                d_window[n] = 0;
                d_up_power[n] = 0;
            }
        }
    }
    float silence = sum_energy();
    look_for_unknown();

    std::copy_n(d_window.begin(), FFT_LEN, d_forward.get_inbuf());
    d_forward.execute();
    volk_32fc_magnitude_squared_32f(d_up_power.data(), d_forward.get_outbuf(), FFT_LEN);
    if (d_excise(d_forward.get_outbuf(), d_up_power.data())) {
        // What the filters see is the rest, and so is the energy in their windows.
        std::copy_n(d_forward.get_outbuf(), FFT_LEN, d_backward.get_inbuf());
        d_backward.execute();
        volk_32fc_magnitude_squared_32f(
            d_up_power.data(), d_backward.get_outbuf(), FFT_LEN);
        volk_32f_s32f_multiply_32f(d_up_power.data(),
                                   d_up_power.data(),
                                   1.0f / (float(FFT_LEN) * float(FFT_LEN)),
                                   FFT_LEN);
        silence = sum_energy();
    }
    const float scale = 1.0f / (float(CHIRP_LEN) * float(FFT_LEN) * float(FFT_LEN));
    for (bool down : { false, true }) {
        auto* power = down ? &d_down_power : &d_up_power;
        auto* output = down ? &d_down : &d_up;
        volk_32fc_x2_multiply_conjugate_32fc(
            d_backward.get_inbuf(),
            d_forward.get_outbuf(),
            (down ? d_down_spectrum : d_up_spectrum).data(),
            FFT_LEN);
        d_backward.execute();
        std::copy_n(d_backward.get_outbuf(), FFT_LEN, output->begin());
        volk_32fc_magnitude_squared_32f(power->data(), output->data(), FFT_LEN);
        for (int n = 0; n < FFT_LEN - CHIRP_LEN; n++)
            (*power)[n] *= scale / std::max(d_energy[n], silence);
    }
}

// The energy in each filter's window, of samples whose power is in d_up_power. Returns a
// floor for it: in silence the filters' outputs are rounding errors only.
float burst_detector_impl::sum_energy()
{
    double sum = std::accumulate(d_up_power.begin(), d_up_power.begin() + CHIRP_LEN, 0.0);
    for (int n = 0; n < FFT_LEN - CHIRP_LEN; n++) {
        d_energy[n] = sum;
        sum += double(d_up_power[n + CHIRP_LEN]) - d_up_power[n];
    }
    return 1e-9f * std::accumulate(d_up_power.begin(), d_up_power.end(), 1e-20f);
}

void burst_detector_impl::examine(int position)
{
    const auto first = d_down_power.begin() + position + CHIRP_LEN - d_reach;
    const float loudest = *std::max_element(first, first + 2 * d_reach + 1);
    const double metric = lambda(d_up_power[position]) + lambda(loudest);
    if (metric < d_threshold || (d_pending && metric <= d_best.metric))
        return;
    d_best = { position, metric };
    d_pending = true;
}

void burst_detector_impl::emit(const candidate& found)
{
    // The two peaks of every path have the same distance and the same phase between them.
    // At this distance the products of the filters' outputs add up in phase over all
    // echoes.
    const auto products = [&](int distance) {
        gr_complexd sum = 0;
        for (int at = found.position - ECHOES_BEFORE;
             at <= found.position + ECHOES_BEHIND;
             at++)
            if (d_up_power[at] > FAINTEST_ECHO * d_up_power[found.position])
                sum += gr_complexd(d_down[at + distance] * std::conj(d_up[at]));
        return sum;
    };
    std::vector<double> sizes;
    for (int distance = CHIRP_LEN - d_reach - 1; distance <= CHIRP_LEN + d_reach + 1;
         distance++)
        sizes.push_back(std::abs(products(distance)));
    const int peak = std::max_element(sizes.begin() + 1, sizes.end() - 1) - sizes.begin();
    const int distance = CHIRP_LEN - d_reach - 1 + peak;
    const double apart =
        distance + parabola(sizes[peak - 1], sizes[peak], sizes[peak + 1]);
    double offset = SWEEP_RATE * (apart - CHIRP_LEN) / 2;
    // Finer, from the phase 2 pi f (M + f/mu) of the sum.
    const double turn = 2 * M_PI * offset * (CHIRP_LEN + offset / SWEEP_RATE);
    const double left = std::arg(products(distance) * std::polar(1.0, -turn));
    offset += left / (2 * M_PI * (CHIRP_LEN + 2 * offset / SWEEP_RATE));
    if (std::abs(offset) > d_max_offset * 1.1)
        return;

    // The strongest path, by both filters.
    const auto power = [&](int at) {
        return d_up_power[at] + d_down_power[at + distance];
    };
    int strongest = found.position;
    for (int at = found.position - ECHOES_BEFORE; at <= found.position + ECHOES_BEHIND;
         at++)
        if (power(at) > power(strongest))
            strongest = at;
    const double up =
        strongest +
        parabola(power(strongest - 1), power(strongest), power(strongest + 1));
    const double time = up + offset / SWEEP_RATE;
    // Never negative: a candidate waits, and its time lies before its peak, by less than
    // AHEAD in all.
    const int sample = static_cast<int>(std::floor(time));

    auto value = pmt::make_dict();
    value = pmt::dict_add(value, pmt::intern("cfo"), pmt::from_double(offset));
    value = pmt::dict_add(value, pmt::intern("timing"), pmt::from_double(time - sample));
    value = pmt::dict_add(value, pmt::intern("metric"), pmt::from_double(found.metric));
    add_item_tag(0, nitems_written(0) + sample, pmt::intern("burst"), value, alias_pmt());
    d_detected++;
    d_unknown.explain();
}

// The power of this step's samples, window by window.
void burst_detector_impl::look_for_unknown()
{
    static_assert(unknown_signal::WINDOW == CHIRP_LEN && STEP % CHIRP_LEN == 0);
    for (int n = 0; n < STEP; n += CHIRP_LEN)
        d_unknown.add(d_energy[n] / CHIRP_LEN);
}

void burst_detector_impl::report(bool last)
{
    if (!d_unknown.due(rate_limit::clock::now(), last))
        return;
    const auto line = fmt::format(
        "a signal comes in bursts, and has no preamble: the "
        "transmitter's sample rate is more than 5 % off, or its carrier more than {:g} "
        "of "
        "the sample rate away (max_offset); or the signal is another system's",
        d_max_offset);
    d_logger->warn("{:s}", line);
    publish_status(*this, "unknown signal", 1, line);
}

int burst_detector_impl::work(int noutput_items,
                              gr_vector_const_void_star& input_items,
                              gr_vector_void_star& output_items)
{
    const auto in = static_cast<const gr_complex*>(input_items[0]);
    const auto out = static_cast<gr_complex*>(output_items[0]);

    const double first_look = -std::expm1(-FIRST_LOOK / (CHIRP_LEN - 1));
    // One step in each call: tags may only be added to samples that this call writes.
    correlate(in);
    for (int position = AHEAD; position < AHEAD + STEP; position++) {
        if (d_up_power[position] > first_look)
            examine(position);
        if (d_pending && position >= d_best.position + SETTLED) {
            emit(d_best);
            d_pending = false;
        }
    }
    d_best.position -= STEP;
    report(false);
    std::copy_n(d_window.begin(), STEP, out);
    return STEP;
}

} // namespace diffjscc
} // namespace gr
