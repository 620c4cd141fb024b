# SPDX-License-Identifier: GPL-3.0-or-later
"""Symbol PDUs in, image PDUs out."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.symbols import ImageHeader

from .arguments import RECEIVES, checked
from .bursts import Dropped
from .counters import Counters
from .logs import RateLimitedLog
from .pdus import image_to_pdu, received_metadata, symbols_from_pdu
from .receiver import Receiver
from .setters import refuses_bad_values


class jscc_decoder(gr.basic_block):
    """Decodes images for flowgraphs with their own framing.

    Input, message port ``symbols``: {the fields of ImageHeader, snr_db (optional)} · c32vector, unit mean power, gain 1.
    Output, message port ``images``: {image_id, width, height, codec, rate, tx_snr_db, snr_db, truncated,
    stage: "initial"} · u8vector RGB.

    codec    codec that symbols must name, by name or folder; "" for whichever codec they name of those that are installed when
             the flowgraph is built
    snr_db   SNR at the receiver, dB; None: from the metadata, else estimated from the symbols' power
    device   where to decode: cpu, cuda, …

    Decoding runs in the block's own thread, a message at a time. What cannot be decoded is counted, logged and dropped.
    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked(**RECEIVES)
    def __init__(self, codec="lite", snr_db=None, device="cpu"):
        gr.basic_block.__init__(self, name="jscc_decoder", in_sig=None, out_sig=None)
        self._receiver = Receiver(codec, snr_db, device)
        self._counters = Counters("received", "decoded", "truncated", "dropped", by_reason=("dropped",))
        self._log = RateLimitedLog(self._warn)
        self._images = pmt.intern("images")
        self.message_port_register_in(pmt.intern("symbols"))
        self.message_port_register_out(self._images)
        self.set_msg_handler(pmt.intern("symbols"), self._decode)

    @refuses_bad_values
    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next image on; None estimates it. A bad value is logged and changes nothing."""
        self._receiver.set_snr_db(snr_db)

    def counters(self):
        """{"received", "decoded", "truncated", "dropped": {reason: messages}}."""
        return self._counters.snapshot()

    def _decode(self, message):
        self._counters.count("received")
        # An exception in a message handler would end the flowgraph.
        try:
            try:
                values, metadata = symbols_from_pdu(message)
                header = ImageHeader.from_dict(metadata)
            except ValueError as error:
                raise Dropped("header", str(error)) from None
            pixels, snr_db, truncated = self._receiver.decode(values, header, metadata.get("snr_db"))
        except Exception as error:
            reason = error.reason if isinstance(error, Dropped) else "error"
            self._counters.count("dropped", reason=reason)
            self._log.note(reason, f"symbols dropped: {one_line(error)}")
            return
        self._counters.count("decoded")
        self._counters.count("truncated", int(truncated))
        self.message_port_pub(self._images, image_to_pdu(pixels, received_metadata(header, snr_db, truncated)))

    def _warn(self, line):
        self.logger.warn(line)
