/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_RECEIVER_H
#define INCLUDED_DIFFJSCC_BURST_RECEIVER_H

#include "burst_format.h"
#include "header_code.h"
#include <gnuradio/fft/fft.h>
#include <Eigen/Dense>
#include <volk/volk_alloc.hh>

namespace gr {
namespace diffjscc {

//! One burst's payload, equalised.
struct burst_payload {
    std::vector<gr_complex> symbols;  //!< what was sent, plus noise
    std::vector<float> noise_var;     //!< of that noise, per complex symbol; +inf where nothing was received
    std::vector<gr_complex> channel;  //!< frequency response in the burst's middle, lowest frequency first (fft_len)
    double snr_db;                    //!< mean gain² over noise variance, in the occupied bandwidth
    double cfo;                       //!< carrier offset, cycles/sample
    double clock_offset;              //!< the transmitter's sampling period over the receiver's, less 1
};

/*!
 * Reads one burst whose beginning is known to a sample and whose carrier offset to about 1/(10 fft_len).
 *
 * Everything known on the way is used as a pilot, in three rounds that each make the next possible:
 *
 * 1. The preamble gives the channel's taps by least squares, and they say where in the prefix the FFT belongs. Its
 *    carrier offset is too coarse to carry a phase across the header; the header's pilots, matched to that channel,
 *    make it finer (a one-dimensional search of their coherent sum). Then the header is decoded.
 * 2. The header, coded again, is 768 known elements. They give the channel to -19 dB of the noise. Against it the
 *    pilots of the whole burst show a plane of phase over time and frequency, whose slopes are what is left of the
 *    carrier offset and the sampling-clock offset (Gauss-Newton, with a prior of 60 ppm on the clock).
 * 3. With the plane undone, channel = delays within the prefix × a polynomial in time, by least squares over all known
 *    elements; Akaike's criterion chooses the degree, 0 for a channel that stands still, up to 3. What it leaves over
 *    is the noise.
 *
 * Symbols are y/h with noise variance σ²/|h|²; times 1/(1 + σ²/|h|²), as the codec weighs them, that is the MMSE
 * equaliser. Holds for delays within the prefix, less the few samples that fractional delays spread to, for offsets as
 * the detector gives them, clock offsets to 100 ppm, and Doppler shifts that turn the channel by less than about a
 * half-turn in a burst.
 */
class burst_receiver
{
public:
    burst_receiver(int fft_len, int cp_len);

    //! Samples that must be there before the one that a burst is tagged on.
    static constexpr int MARGIN = 8;

    //! Samples, from the tagged one, that `read_header` needs.
    int header_span() const;

    //! Samples, from the tagged one, that a burst with so many payload symbols takes.
    int burst_span(int length) const;

    //! The header at ``samples``, or nothing; ``cfo`` in cycles/sample. Samples from -MARGIN on are read.
    std::optional<burst_header> read_header(const gr_complex* samples, double cfo);

    /*!
     * The payload behind the header that `read_header` found just before, for the same samples.
     *
     * \param usable  samples, from the tagged one, that are this burst's; elements beyond are erasures
     */
    burst_payload read_payload(const gr_complex* samples, const burst_header& header, int usable);

    const burst_format& format() const { return d_format; }

private:
    using spectra = Eigen::MatrixXcf; // carriers × OFDM symbols

    void derotate(const gr_complex* samples, int count, double cfo);
    spectra transform(int rows);
    double row_time(int row) const; // of the middle of an OFDM symbol, samples since the tagged one
    Eigen::VectorXcf preamble_channel();
    double
    finer_offset(const spectra& received, const Eigen::VectorXcf& channel, double reference, double range) const;
    void undo_phase(spectra& received, double phase, double offset, double clock_offset, double reference) const;
    Eigen::Vector3d
    phase_plane(const spectra& received, const Eigen::VectorXcf& channel, double noise_var, double reference) const;
    struct fit; // what is known of the channel over time
    fit fit_channel(const spectra& received, const spectra& header, int rows) const;

    const burst_format d_format;
    const header_code d_code;
    const std::vector<gr_complex> d_turns; // what each payload symbol was multiplied by
    fft::fft_complex_fwd d_fft;
    Eigen::MatrixXcf d_preamble;         // taps → received preamble
    Eigen::MatrixXcf d_preamble_inverse; // and back
    Eigen::VectorXf d_tap_noise;         // variance of a tap over that of a sample
    Eigen::MatrixXcf d_delays;           // taps at delays 0 … cp_len-1 → carriers
    Eigen::MatrixXcf d_basis;            // orthonormal basis of what such taps can make of the carriers
    std::vector<Eigen::MatrixXcf> d_pilot_basis, d_pilot_gram; // its rows at the pilots of each symbol of the pattern
    volk::vector<gr_complex> d_samples;  // from -MARGIN on, the carrier offset undone

    // Of the burst in hand:
    int d_window = 0;  // where the FFT begins, in samples after the end of the prefix: 0 or before
    double d_cfo = 0;  // cycles/sample
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_RECEIVER_H */
