# SPDX-License-Identifier: GPL-3.0-or-later
"""Symbol PDUs in, image PDUs out."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.symbols import ImageHeader

from .arguments import RECEIVES, checked
from .bursts import Dropped
from .counters import Counters
from .delivery import Delivery
from .diffjscc_python import stopping
from .logs import StatusLog
from .pdus import HEADER_TAG, REFERENCE_TAG, image_to_pdu, received_metadata, symbols_from_pdu
from .receiver import Receiver
from .setters import refuses_bad_values

_HEADER = pmt.symbol_to_string(HEADER_TAG)


class jscc_decoder(gr.basic_block):
    """Decodes images for flowgraphs with their own framing.

    Input, message port ``symbols``: {the fields of ImageHeader, or image_header with these as a dictionary; snr_db (optional)} ·
    c32vector, unit mean power, gain 1.
    Output, message port ``images``: {image_id, width, height, codec, rate, tx_snr_db, snr_db, truncated,
    stage: "initial"} · u8vector RGB. Message port ``status``: what is logged, see StatusLog.

    codec    codec that symbols must name, by name or folder; "" for whichever codec they name of those that are installed when
             the flowgraph is built
    snr_db   SNR at the receiver, dB; None: from the metadata, else estimated from the symbols' power
    device   where to decode: cpu, cuda, …

    Decoding runs in the block's own thread, a message at a time. The known symbols that jscc_source sends behind each burst, and
    tagged_stream_to_pdu makes a PDU of, are ignored. What cannot be decoded is counted, logged and dropped.
    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked(**RECEIVES)
    def __init__(self, codec="lite", snr_db=None, device="cpu"):
        gr.basic_block.__init__(self, name="jscc_decoder", in_sig=None, out_sig=None)
        self._receiver = Receiver(codec, snr_db, device)
        self._counters = Counters("received", "decoded", "truncated", "dropped", "undelivered", by_reason=("dropped",))
        self._log = StatusLog(self, self._warn)
        # Messages that came when the flowgraph stopped, so far.
        self._stopped = 0
        self.message_port_register_in(pmt.intern("symbols"))
        self._delivery = Delivery(self, "images")
        self.set_msg_handler(pmt.intern("symbols"), self._decode)

    @refuses_bad_values
    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next image on; None estimates it. A bad value is logged and changes nothing."""
        self._receiver.set_snr_db(snr_db)

    def counters(self):
        """{"received", "decoded", "truncated", "dropped": {reason: messages}, "undelivered": images that no subscriber took any
        more when the flowgraph had stopped}."""
        return self._counters.snapshot()

    def stop(self):
        stopped = self._counters.reasons().get("dropped", {}).get("stopped", 0) - self._stopped
        self._stopped += stopped
        undelivered = self._delivery.left()
        self._counters.count("undelivered", undelivered)
        if stopped or undelivered:
            left = f"{stopped} messages not decoded, and {undelivered} images that no subscriber took"
            self._log.say("stopped", f"stopped with {left}")
        return True

    def _decode(self, message):
        if _is_guard(message):
            return
        self._counters.count("received")
        if stopping():
            self._counters.count("dropped", reason="stopped")
            return
        # An exception in a message handler would end the flowgraph.
        try:
            try:
                values, metadata = symbols_from_pdu(message)
                header = ImageHeader.from_dict(metadata.get(_HEADER, metadata))
            except ValueError as error:
                raise Dropped("header", str(error)) from None
            pixels, snr_db, truncated = self._receiver.decode(values, header, metadata.get("snr_db"))
        except Exception as error:
            reason = error.reason if isinstance(error, Dropped) else "error"
            self._counters.count("dropped", reason=reason)
            self._log.note("dropped", f"symbols dropped: {one_line(error)}", kind=reason)
            return
        self._counters.count("decoded")
        self._counters.count("truncated", int(truncated))
        self._delivery.publish("images", image_to_pdu(pixels, received_metadata(header, snr_db, truncated)))

    def _warn(self, line):
        self.logger.warn(line)


def _is_guard(message):
    """Whether a PDU holds what jscc_source sends between bursts."""
    return pmt.is_pair(message) and pmt.is_dict(pmt.car(message)) and pmt.dict_has_key(pmt.car(message), REFERENCE_TAG)
