# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs in, symbol PDUs out."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line

from .arguments import checked
from .counters import Counters
from .pdus import image_from_pdu, symbols_to_pdu
from .setters import refuses_bad_values
from .transmitter import Transmitter


class jscc_encoder(gr.basic_block):
    """Encodes images for flowgraphs with their own framing.

    Input, message port ``images``: {width, height} · u8vector RGB.
    Output, message port ``symbols``: {the fields of ImageHeader} · c32vector, mean |y|² = 1.

    codec        codec, by name or folder
    rate         channel uses per pixel, such as "1/128"
    snr_db       the SNR to encode for, dB
    device       where to encode: cpu, cuda, …
    effort       steps in which the encoder looks for better symbols for each image: each takes about three times as long as
                 decoding; 40 give some tenths of a dB at high rates and SNRs. Receivers need not know

    Encoding runs in the block's own thread, a message at a time; a flowgraph that is stopped waits for the image in hand, for
    all of its steps. What is not an image is counted, logged and dropped.
    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
    def __init__(self, codec="lite", rate="1/128", snr_db=1.0, device="cpu", effort=0):
        gr.basic_block.__init__(self, name="jscc_encoder", in_sig=None, out_sig=None)
        self._transmitter = Transmitter(codec, rate, snr_db, device, effort)
        self._counters = Counters("sent", "skipped")
        self._symbols = pmt.intern("symbols")
        self.message_port_register_in(pmt.intern("images"))
        self.message_port_register_out(self._symbols)
        self.set_msg_handler(pmt.intern("images"), self._encode)

    @refuses_bad_values
    def set_rate(self, rate):
        """Changes the rate from the next image on. A rate that the codec lacks is logged and changes nothing."""
        self._transmitter.set_rate(rate)

    @refuses_bad_values
    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next image on. A bad value is logged and changes nothing."""
        self._transmitter.set_snr_db(snr_db)

    @refuses_bad_values
    def set_effort(self, effort):
        """Changes the encoder's effort, in steps, from the next image on. A bad value is logged and changes nothing."""
        self._transmitter.set_effort(effort)

    def counters(self):
        """{"sent": images encoded, "skipped": messages that were no image or could not be encoded}."""
        return self._counters.snapshot()

    def _encode(self, message):
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, _ = image_from_pdu(message)
            symbols = self._transmitter.encode(pixels)
        except Exception as error:
            self._counters.count("skipped")
            self.logger.warn(f"image skipped: {one_line(error)}")
            return
        self._counters.count("sent")
        self.message_port_pub(self._symbols, symbols_to_pdu(symbols.values, symbols.header.to_dict()))
