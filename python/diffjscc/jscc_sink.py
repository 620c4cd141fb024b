# SPDX-License-Identifier: GPL-3.0-or-later
"""Complex symbols in, pictures out."""

import collections

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.images import unused_path, write_image

from .bursts import BurstAssembler
from .pdus import LENGTH_TAG, image_to_pdu, received_metadata
from .receiver import Counters, Dropped, Receiver
from .worker import Worker

#: Seconds that `work` waits for the decoder before it gives the scheduler a turn.
PATIENCE = 0.1

#: Seconds that a stopping flowgraph waits for pictures that are still being decoded.
DRAIN_TIMEOUT = 60.0


class jscc_sink(gr.sync_block):
    """Decodes bursts of JSCC symbols, publishes the pictures and writes them to files.

    Input: complex symbols, unit mean power, gain 1. A burst's first symbol carries the tag ``image_header`` (the fields
    of ImageHeader) and a length tag; an optional tag ``snr_db`` tells its SNR.
    Output, message port ``images``: PDU {image_id, width, height, model, rate, tx_snr_db, snr_db, truncated,
    stage: "initial"} · u8vector RGB.

    model        codec that bursts must name, by name or folder; "" for whichever installed model they name
    snr_db       SNR at the receiver, dB; None: from the tag, else estimated from each burst's power
    folder       where PNG files are written, each whole or not at all; "" for none
    on_full      "wait": hold the stream back when the decoder is behind (files, simulations); "drop": throw the oldest
                 waiting burst away and count it (live radios)
    queue_size   bursts that may wait for the decoder
    length_tag   name of the length tag
    device       where to decode: cpu, cuda, …

    Decoding runs in a thread of its own. A burst that lost its tail is decoded from the rest; a burst that cannot be
    decoded is counted, logged and dropped. Raises ValueError for an unknown policy, queue size or SNR.
    """

    def __init__(self, model="lite", snr_db=None, folder="", on_full="wait", queue_size=4, length_tag=LENGTH_TAG, device="cpu"):
        gr.sync_block.__init__(self, name="jscc_sink", in_sig=[np.complex64], out_sig=None)
        self._images = pmt.intern("images")
        self.message_port_register_out(self._images)
        self._receiver = Receiver(model, snr_db, device)
        self._counters = Counters()
        self._assembler = BurstAssembler(length_tag)
        self._worker = Worker(self._decode, self._failed, self._thrown_away, queue_size, on_full)
        self._folder = folder
        self._holds_back = on_full == "wait"
        self._ended = collections.deque()
        self._seen = 0

    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next decoded burst on; None estimates it."""
        self._receiver.set_snr_db(snr_db)

    def counters(self):
        """{"received", "decoded", "truncated", "stray": symbols outside any burst, "dropped": {reason: bursts}}."""
        return self._counters.snapshot() | {"stray": self._assembler.stray}

    def start(self):
        self._worker.start()
        return True

    def stop(self):
        last = self._assembler.flush()
        if last is not None:
            self._ended.append(last)
        while self._ended and self._worker.submit(self._ended[0], DRAIN_TIMEOUT):
            self._ended.popleft()
        if not self._worker.stop(DRAIN_TIMEOUT):
            self.logger.error(f"stopped with pictures still undecoded after {DRAIN_TIMEOUT:.0f} s")
        return True

    def work(self, input_items, output_items):
        # A flowgraph ends, and its messages with it, when the last symbol is consumed. So with "wait" the last one seen
        # stays unconsumed until the decoder has published everything; ``_seen`` symbols of this window are such.
        symbols = input_items[0]
        fresh = symbols[self._seen :]
        if len(fresh) and self._deliver():
            tags = self.get_tags_in_window(0, self._seen, len(symbols))
            self._ended.extend(self._assembler.push(fresh, self.nitems_read(0) + self._seen, tags))
            self._seen = len(symbols)
            self._deliver()
        elif not len(fresh):
            self._deliver() and self._worker.wait_idle(PATIENCE)
        idle = not self._ended and self._worker.idle
        consumed = self._seen if idle or not self._holds_back else max(0, self._seen - 1)
        self._seen -= consumed
        return consumed

    def _deliver(self):
        """Hands ended bursts to the worker; False while it has no room for all of them."""
        while self._ended:
            if not self._worker.submit(self._ended[0], PATIENCE):
                return False
            self._ended.popleft()
        return True

    def _decode(self, burst):
        self._counters.count("received")
        if burst.problem is not None:
            raise Dropped("header", burst.problem)
        header = burst.header
        pixels, snr_db, truncated = self._receiver.decode(burst.values, header, burst.snr_db)
        self._counters.count("decoded")
        self._counters.count("truncated", int(truncated))
        self.message_port_pub(self._images, image_to_pdu(pixels, received_metadata(header, snr_db, truncated)))
        if self._folder:
            write_image(unused_path(self._folder, f"{header.image_id:06d}"), pixels)

    def _failed(self, burst, error):
        self._counters.drop(error.reason if isinstance(error, Dropped) else "error")
        self.logger.warn(f"burst dropped: {error}")

    def _thrown_away(self, burst):
        self._counters.count("received")
        self._counters.drop("queue full")
        self.logger.warn("burst dropped: the decoder is behind and its queue is full")
