/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

#ifndef INCLUDED_DIFFJSCC_BURST_DEMODULATOR_H
#define INCLUDED_DIFFJSCC_BURST_DEMODULATOR_H

#include <gnuradio/block.h>
#include <gnuradio/diffjscc/api.h>

namespace gr {
namespace diffjscc {

/*!
 * \brief Samples with bursts tagged by burst_detector in, their payloads out.
 * \ingroup diffjscc
 *
 * Input: samples, complex, with tags "burst".
 * Output 0: payload symbols, complex, unit mean power and gain 1, plus noise.
 * Output 1: variance of that noise for each complex symbol, float; +inf marks an erasure.
 * Output 2, optional: the channel in each burst's middle: fft_len complex values for a
 * burst, lowest frequency first, the first of them with the tag "packet_len". It is
 * discarded where the output has no room for it.
 *
 * A payload's first symbol carries the tags "packet_len", "burst_header" (the 11 bytes of
 * the header that describe the image, u8vector), "snr_db" (in the occupied bandwidth),
 * "cfo" (cycles/sample), "clock_offset" (the transmitter's sampling period over the
 * receiver's, less 1) and "burst_start" (integer, where the burst begins in the input); and
 * "callsign" (symbol) where the burst has one and it could be read.
 *
 * Where another burst with a readable header begins inside a burst, the rest of the first
 * becomes erasures; the first is dropped if not even its header was complete. A burst of
 * another session that is more than 1.5 dB weaker does not end it: that one is noise to it. Two
 * detections of one burst, as long echoes cause, give it once. A tag gives nothing if no
 * header can be read behind it. Such tags are counted, and at most every 10 s the number
 * of those with a "metric" too high for a false alarm is logged as a warning, and
 * published on the message port "status": {"block", "event", "count", "line"}. So are
 * bursts inside which samples were missing; their tag "lost_samples" says how many. Tags
 * "burst" that hold no dictionary with a number "cfo" are ignored, so are samples that
 * are not finite.
 */
class DIFFJSCC_API burst_demodulator : virtual public gr::block
{
public:
    typedef std::shared_ptr<burst_demodulator> sptr;

    /*!
     * \param fft_len  subcarriers in the sample rate, 64 or 256
     * \param cp_len  samples of the cyclic prefix, 8 to fft_len/4
     */
    static sptr make(int fft_len = 256, int cp_len = 16);

    //! Bursts whose header was decoded since the block was made.
    virtual uint64_t received() const = 0;

    //! Tagged samples behind which no header could be decoded.
    virtual uint64_t rejected() const = 0;

    //! Bursts inside which samples were missing.
    virtual uint64_t interrupted() const = 0;
};

} // namespace diffjscc
} // namespace gr

#endif /* INCLUDED_DIFFJSCC_BURST_DEMODULATOR_H */
