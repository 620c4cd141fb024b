/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#include "qa_signals.h"
#include "slip_finder.h"
#include <boost/test/unit_test.hpp>

namespace gr {
namespace diffjscc {

namespace {

constexpr int PAYLOAD = 3072;

// A burst through a channel of gain 1, as samples; some are missing from ``at`` on.
struct burst {
    const preset parameters;
    const int symbols = parameters.header_symbols + parameters.payload_symbols(PAYLOAD);
    std::vector<gr_complex> samples = preamble();

    burst(int fft_len, double noise_var, int seed) : parameters(fft_len, 16)
    {
        const resource_grid sent = sent_grid(parameters, symbols, seed);
        fft::fft_complex_rev backward(fft_len);
        for (int symbol = 0; symbol < symbols; symbol++) {
            std::fill_n(backward.get_inbuf(), fft_len, 0);
            for (int i = 0; i < sent.rows(); i++)
                backward.get_inbuf()[(parameters.carriers[i] + fft_len) % fft_len] =
                    sent(i, symbol) / std::sqrt(float(sent.rows()));
            backward.execute();
            const gr_complex* out = backward.get_outbuf();
            samples.insert(samples.end(), out + fft_len - 16, out + fft_len);
            samples.insert(samples.end(), out, out + fft_len);
        }
        gaussian random(seed + 1);
        for (auto& sample : samples)
            sample += random(noise_var);
    }

    void lose(int at, int count)
    {
        samples.erase(samples.begin() + at, samples.begin() + at + count);
        // Another transmission, or noise, follows.
        const auto more = gaussian(99)(1.0, count);
        samples.insert(samples.end(), more.begin(), more.end());
    }

    std::optional<slip> find() const
    {
        // FFTs begin at the prefix's end here: no early window, no echo.
        return slip_finder(parameters)(samples.data(),
                                       samples.size(),
                                       Eigen::VectorXcf::Ones(parameters.carriers.size()),
                                       0,
                                       parameters.header_symbols,
                                       symbols);
    }
};

} // namespace

BOOST_AUTO_TEST_CASE(missing_samples_are_counted_and_placed)
{
    for (int missing : { 5, 10, 100, 500, 1000 }) {
        // At 12 dB; the loss at a third of the payload.
        burst sent(256, 0.06, missing);
        const int at = 256 + 1360 + 1500;
        sent.lose(at, missing);
        const auto found = sent.find();
        BOOST_TEST_CONTEXT(missing)
        {
            BOOST_REQUIRE(found);
            BOOST_TEST(found->missing == missing);
            BOOST_TEST(std::abs(found->at - at) < 256);
        }
    }
}

BOOST_AUTO_TEST_CASE(whole_bursts_and_noise_miss_nothing)
{
    for (int fft_len : { 64, 256 }) {
        for (double noise_var : { 0.01, 0.3, 2.0, 100.0 })
            for (int seed = 0; seed < 10; seed++)
                BOOST_TEST(!burst(fft_len, noise_var, seed).find());
    }
}

BOOST_AUTO_TEST_CASE(interference_over_a_bursts_end_is_no_loss)
{
    burst sent(256, 0.06, 1);
    const auto loud = gaussian(5)(10.0, sent.samples.size());
    for (size_t n = 3500; n < sent.samples.size(); n++)
        sent.samples[n] += loud[n];
    BOOST_TEST(!sent.find());
}

} // namespace diffjscc
} // namespace gr
