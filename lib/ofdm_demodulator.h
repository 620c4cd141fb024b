/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_OFDM_DEMODULATOR_H
#define INCLUDED_DIFFJSCC_OFDM_DEMODULATOR_H

#include "preset.h"
#include <gnuradio/fft/fft.h>
#include <Eigen/Core>
#include <volk/volk_alloc.hh>
#include <vector>

namespace gr {
namespace diffjscc {

//! A burst's resource elements: carriers × OFDM symbols, both as docs/air-interface.md
//! (sections 2 and 4) counts them.
using resource_grid = Eigen::MatrixXcf;

/*!
 * From the samples of one burst to its resource grid.
 *
 * Times are in samples since the burst's tagged sample. The FFT of an OFDM symbol may
 * begin anywhere in the cyclic prefix that the echoes of the symbol before have left: at
 * ``window`` samples after the prefix's end, 0 or negative. That only turns the phase of
 * carrier k by 2πk·window/fft_len, which the channel estimate contains. The values are
 * scaled such that noise has the same variance on a carrier as in a sample, times the
 * share of carriers that are occupied.
 */
class ofdm_demodulator
{
public:
    //! Samples that must be there before the tagged one.
    static constexpr int MARGIN = 8;

    explicit ofdm_demodulator(const preset& parameters);

    //! Takes ``count`` samples from the tagged one on, and MARGIN before it, and undoes
    //! the carrier offset ``cfo``, cycles/sample. Samples that are not finite, or beyond
    //! 1e15, become 0.
    void take(const gr_complex* samples, int count, double cfo);

    //! The samples that were taken, from the tagged one on; they may be cleaned.
    gr_complex* samples() { return d_samples.data() + MARGIN; }
    const gr_complex* samples() const { return d_samples.data() + MARGIN; }

    //! How many of them there are, from the tagged one on.
    int count() const { return d_samples.size() - MARGIN; }

    //! Turns the samples back by a phase that is given, radians, at ``times``, and linear in
    //! between.
    void undo(const Eigen::VectorXd& phase, const Eigen::VectorXd& times);

    //! The grid's first ``symbols`` OFDM symbols.
    resource_grid transform(int symbols, int window);

    //! Of each of the first OFDM symbols: whether more than a quarter of its samples are 0, as
    //! radios or this receiver put them where samples are missing.
    std::vector<bool> silent(int symbols, int window) const;

    //! Middles of the FFTs of the first ``symbols`` OFDM symbols, samples.
    Eigen::VectorXd times(int symbols, int window) const;

private:
    int begin(int symbol, int window) const; // of an FFT

    const preset& d_preset;
    fft::fft_complex_fwd d_fft;
    volk::vector<gr_complex> d_samples; // from -MARGIN on, carrier offset undone
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_OFDM_DEMODULATOR_H */
