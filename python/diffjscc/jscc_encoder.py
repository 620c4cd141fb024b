# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs in, symbol PDUs out."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line

from .arguments import checked
from .counters import Counters
from .delivery import Delivery
from .diffjscc_python import stopping
from .logs import StatusLog
from .pdus import image_from_pdu, symbols_to_pdu
from .setters import refuses_bad_values
from .transmitter import Transmitter


class jscc_encoder(gr.basic_block):
    """Encodes images for flowgraphs with their own framing.

    Input, message port ``images``: {width, height} · u8vector RGB.
    Output, message port ``symbols``: {the fields of ImageHeader} · c32vector, mean |y|² = 1. Message port ``status``: what is
    logged, see StatusLog.

    codec        codec, by name or folder, or the codec itself, such as `load_codec` gives it
    rate         channel uses per pixel, such as "1/128"
    snr_db       the SNR to encode for, dB
    device       where to encode: cpu, cuda, …
    effort       steps in which the encoder looks for better symbols for each image: each takes about three times as long as
                 decoding; 40 give some tenths of a dB at high rates and SNRs. Receivers need not know

    Encoding runs in the block's own thread, a message at a time. When the flowgraph is stopped, the search for better symbols
    ends, and the image in hand has those found by then. What is not an image is counted, logged and dropped.

    Stock framing: pdu_to_tagged_stream needs room for a whole image in its output buffer, K = R·W·H symbols. By default it has
    8192, and with a longer image the flowgraph stands still without a word: set its minimum output buffer (Advanced) to 2 K.
    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
    def __init__(self, codec="lite", rate="1/128", snr_db=1.0, device="cpu", effort=0):
        gr.basic_block.__init__(self, name="jscc_encoder", in_sig=None, out_sig=None)
        self._transmitter = Transmitter(codec, rate, snr_db, device, effort)
        self._counters, self._log = Counters("sent", "skipped", "undelivered"), StatusLog(self, self._warn)
        # Images that came when the flowgraph stopped, so far.
        self._stopped = 0
        self.message_port_register_in(pmt.intern("images"))
        self._delivery = Delivery(self, "symbols")
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
        """{"sent": images encoded, "skipped": messages that were no image, could not be encoded, or came when the flowgraph
        stopped, "undelivered": symbols that no subscriber took any more when it had stopped}."""
        return self._counters.snapshot()

    def stop(self):
        stopped = self._counters.reasons().get("skipped", {}).get("stopped", 0) - self._stopped
        self._stopped += stopped
        undelivered = self._delivery.left()
        self._counters.count("undelivered", undelivered)
        if stopped or undelivered:
            self._log.say("stopped", f"stopped with {stopped} images not encoded, and {undelivered} that no subscriber took")
        return True

    def _encode(self, message):
        if stopping():
            return self._counters.count("skipped", reason="stopped")
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, _ = image_from_pdu(message)
            symbols = self._transmitter.encode(pixels, stopping)
        except Exception as error:
            self._counters.count("skipped")
            self._log.note("skipped", f"image skipped: {one_line(error)}")
            return None
        self._counters.count("sent")
        self._delivery.publish("symbols", symbols_to_pdu(symbols.values, symbols.header.to_dict()))
        return None

    def _warn(self, line):
        self.logger.warn(line)
