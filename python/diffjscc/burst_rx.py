# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples in, symbol bursts out."""

from gnuradio import gr

from diffjscc.air.preset import find_preset

from .arguments import checked
from .burst_stages import burst_demodulator, burst_detector


class burst_rx(gr.hier_block2):
    """Receives the air interface: burst_detector ─► burst_demodulator.

    Input: complex samples at the transmitter's rate, at any level.
    Output 0: JSCC symbols, complex, unit mean power, gain 1; a burst's first one carries ``packet_len``,
    ``burst_header`` (11 bytes), ``snr_db``, ``cfo`` (cycles/sample), ``clock_offset`` and ``burst_start`` (where the burst begins
    in the input, samples, plus DETECTOR_DELAY of burst_stages).
    Output 1: the noise variance of each symbol, float; +inf for an erasure.
    Output 2, optional: the channel in each burst's middle, fft_len complex a burst, lowest frequency first.

    Message port ``status``, optional: what is logged, see StatusLog.

    preset            "ofdm64", "ofdm256", or for sound "hf", "fm" or "room"; the transmitter's
    false_alarm_rate  false detections per sample of white noise; the header's checksum rejects them
    max_offset        largest carrier offset, cycles/sample, up to 0.2
    status            whether there is a message port. GNU Radio frees no hierarchical block with message ports, and no buffers of
                      it: leave it out where receivers are made by the hundred

    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
    def __init__(self, preset="ofdm256", false_alarm_rate=1e-9, max_offset=0.05, status=False):
        gr.hier_block2.__init__(
            self,
            "burst_rx",
            gr.io_signature(1, 1, gr.sizeof_gr_complex),
            gr.io_signature3(3, 3, gr.sizeof_gr_complex, gr.sizeof_float, gr.sizeof_gr_complex),
        )
        parameters = find_preset(preset)
        self._detector = burst_detector(false_alarm_rate, max_offset)
        self._demodulator = burst_demodulator(parameters.fft_len, parameters.cp_len)
        self.connect(self, self._detector, self._demodulator)
        for port in range(3):
            self.connect((self._demodulator, port), (self, port))
        if status:
            self.message_port_register_hier_out("status")
            for block in (self._detector, self._demodulator):
                self.msg_connect((block, "status"), (self, "status"))

    def samples(self):
        """Number of samples that came so far."""
        return self._detector.nitems_read(0)

    def counters(self):
        """Of preambles and bursts, since the block was made.

        {"detected": preambles, "received": bursts whose header was decoded, "rejected": preambles without one,
        "interrupted": bursts inside which samples were missing}
        """
        return {
            "detected": self._detector.detected(),
            "received": self._demodulator.received(),
            "rejected": self._demodulator.rejected(),
            "interrupted": self._demodulator.interrupted(),
        }
