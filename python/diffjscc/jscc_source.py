# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, complex symbols out."""

import collections
import threading

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.images import find_images, read_image

from .pdus import HEADER_TAG, LENGTH_TAG, header_to_pmt, image_from_pdu
from .transmitter import Transmitter

#: Seconds that `work` waits for an image before it gives the scheduler a turn.
PATIENCE = 0.1

#: Seconds that `work` waits for an image that is being encoded: an idle source may be ended by the scheduler.
ENCODING_PATIENCE = 10.0

#: Encoded images kept ready ahead of the stream.
AHEAD = 2

#: Images from the message port that may wait.
MAX_WAITING = 64


class jscc_source(gr.sync_block):
    """Encodes images to bursts of complex symbols.

    Input, message port ``images``: image PDUs {width, height} · u8vector RGB; they go before files.
    Output: complex symbols, mean |y|² = 1 over each image, one burst an image, K = R·W·H for sides that are multiples
    of 16. A burst's first symbol carries the tags ``image_header`` (the fields of ImageHeader) and ``packet_len``.

    source       a file, a folder or a glob; "" for images from the message port alone
    repeat       begin again after the last file; without it the flowgraph ends there
    codec        codec, by name or folder
    rate         channel uses per pixel, such as "1/128"
    snr_db       the SNR to encode for, dB
    guard        silent symbols after each burst, so that filters and resamplers behind can run out
    length_tag   name of the length tag
    device       where to encode: cpu, cuda, …

    Reading and encoding run in a thread of their own, two images ahead of the stream. An image that cannot be read or
    encoded is counted, logged and passed over; when no file of a pass could be sent, the source ends. Raises ValueError
    for a source, codec, rate or SNR that does not exist.
    """

    def __init__(
        self, source="", repeat=False, codec="lite", rate="1/128", snr_db=1.0, guard=32, length_tag=LENGTH_TAG, device="cpu"
    ):
        gr.sync_block.__init__(self, name="jscc_source", in_sig=None, out_sig=[np.complex64])
        self._transmitter = Transmitter(codec, rate, snr_db, device)
        if guard < 0:
            raise ValueError(f"guard = {guard}: must be 0 or more symbols")
        self._silence = np.zeros(guard, np.complex64)
        self._files = find_images(source) if source else []
        self._repeat = repeat
        self._length_tag = pmt.intern(length_tag)
        self._waiting = collections.deque()
        self._ready = collections.deque()
        self._encoding = self._ended = self._stopping = False
        self._changed = threading.Condition()
        self._thread = None
        self._sent = self._skipped = 0
        self._burst = np.zeros(0, np.complex64)
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._take_pdu)

    def set_rate(self, rate):
        """Changes the rate from the next image encoded. Raises ValueError, and keeps the old one, where the codec lacks it."""
        self._transmitter.set_rate(rate)

    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next image encoded. Raises ValueError, and keeps the old one, unless finite."""
        self._transmitter.set_snr_db(snr_db)

    def counters(self):
        """{"sent": images on the stream, "skipped": images that could not be read or encoded}."""
        return {"sent": self._sent, "skipped": self._skipped}

    def start(self):
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="jscc_source")
        self._thread.start()
        return True

    def stop(self):
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(ENCODING_PATIENCE)
        return True

    def work(self, input_items, output_items):
        if not len(self._burst):
            if not self._wait_for_burst():
                return 0
            with self._changed:
                if not self._ready:
                    return -1
                symbols = self._ready.popleft()
                self._changed.notify_all()
            self._burst = np.concatenate((symbols.values, self._silence))
            offset = self.nitems_written(0)
            self.add_item_tag(0, offset, self._length_tag, pmt.from_long(len(symbols.values)))
            self.add_item_tag(0, offset, HEADER_TAG, header_to_pmt(symbols.header))
            self._sent += 1
        out = output_items[0]
        count = min(len(out), len(self._burst))
        out[:count] = self._burst[:count]
        self._burst = self._burst[count:]
        return count

    def _wait_for_burst(self):
        """True when an image is ready or none will come."""
        with self._changed:
            if self._changed.wait_for(lambda: self._ready or self._ended, PATIENCE):
                return True
            # The scheduler ends a source that produces nothing once those who send it messages have ended. Images that
            # they have sent are then still to go.
            coming = self._encoding or self._waiting
            return bool(coming and self._changed.wait_for(lambda: self._ready or self._ended, ENCODING_PATIENCE))

    def _take_pdu(self, message):
        try:
            pixels, _ = image_from_pdu(message)
        except ValueError as error:
            return self._skip(error)
        with self._changed:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(pixels)
                self._changed.notify_all()
                return None
        return self._skip(f"{MAX_WAITING} images are waiting already: send them more slowly")

    def _skip(self, reason):
        self._skipped += 1
        self.logger.warn(f"image skipped: {reason}")

    def _run(self):
        images = self._read_files() if self._files else None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._ready) < AHEAD)
                if self._stopping:
                    return
                self._encoding = bool(self._waiting or images)
                pixels = self._waiting.popleft() if self._waiting else None
            symbols = None
            try:
                if pixels is None and images is not None:
                    pixels = next(images)
                if pixels is not None:
                    symbols = self._transmitter.encode(pixels)
            except StopIteration:
                images = None
            except Exception as error:
                self._skip(error)
            with self._changed:
                self._encoding = False
                if symbols is not None:
                    self._ready.append(symbols)
                elif images is None and not self._waiting:
                    # Files were sent, so the flowgraph may end; a source of PDUs alone waits for more.
                    self._ended = bool(self._files)
                self._changed.notify_all()
                if images is None:
                    self._changed.wait_for(lambda: self._stopping or self._waiting)

    def _read_files(self):
        """uint8 images of the files, over and over with ``repeat``; unreadable ones are skipped."""
        while True:
            sent = 0
            for path in self._files:
                try:
                    pixels = read_image(path)
                except ValueError as error:
                    self._skip(error)
                    continue
                sent += 1
                yield pixels
            if not self._repeat:
                return
            if not sent:
                self.logger.error("no file of the source could be read: the source ends")
                return
