# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, complex symbols out."""

import collections
import threading
from dataclasses import dataclass

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.images import find_images, read_image
from diffjscc.symbols import Symbols

from .arguments import checked
from .counters import Counters
from .logs import StatusLog
from .pdus import HEADER_TAG, LENGTH_TAG, LIVE, REFERENCE_TAG, header_to_pmt, image_from_pdu, image_to_pdu
from .reference import reference, reference_length
from .setters import refuses_bad_values
from .threads import start_thread
from .transmitter import Transmitter

#: Seconds that `work` waits for an image before it gives the scheduler a turn: an image of the message port waits as long.
PATIENCE = 0.01

#: Seconds that `work` waits for an image, or for the next step of the encoder's effort, once nobody sends messages any more:
#: the scheduler then ends a source that has nothing.
LAST_PATIENCE = 60.0

#: Seconds that `stop` waits for an image that is being encoded.
STOP_TIMEOUT = 1.0

#: Encoded images kept ready ahead of the stream; where they are live, each would be one more of delay.
AHEAD, LIVE_AHEAD = 2, 1

#: Images from the message port that may wait.
MAX_WAITING = 64


@dataclass(frozen=True)
class _Posted:
    """An image from the message port; ``live``: a newer live one replaces it."""

    pixels: np.ndarray
    live: bool


@dataclass(frozen=True)
class _Ready:
    """An encoded image; ``posted``: it came from the message port."""

    symbols: Symbols
    posted: bool


class jscc_source(gr.sync_block):
    """Encodes images to bursts of complex symbols.

    Input, message port ``images``: image PDUs {width, height} · u8vector RGB; they go before files. Of those with ``live: True``,
    as camera_source publishes them, only the newest waits.
    Output: complex symbols, mean |y|² = 1 over each image, one burst an image, K = R·W·H for sides that are multiples
    of 16. A burst's first symbol carries the tags ``image_header`` (the fields of ImageHeader) and ``packet_len``. Message port
    ``originals``: PDUs of the images as they are encoded, under the image_id that they are sent with, for qt_image_view.
    Message port ``status``: what is logged, see StatusLog.

    source       a file, a folder or a glob; "" for images from the message port alone
    repeat       start over after the last file; without it the flowgraph ends there
    codec        codec, by name or folder, or the codec itself, such as `load_codec` gives it
    rate         channel uses per pixel, such as "1/128"
    snr_db       the SNR to encode for, dB
    guard        symbols after each burst, which flush the filters that follow: from 32 on a reference of guard − 16 known
                 symbols, at most 64, by which jscc_sink sees whether symbols arrive as they were sent, then silence. They are a
                 packet of their own, with a length tag, so that stock tagged-stream blocks may follow; 0 for none
    length_tag   name of the length tag
    device       where to encode: cpu, cuda, …
    effort       steps in which the encoder looks for better symbols for each image: each takes about three times as long as
                 decoding; 40 give some tenths of a dB at high rates and SNRs. Receivers need not know

    Reading and encoding run in a thread of their own, two images ahead of the stream. An image that cannot be read or
    encoded is counted, logged and skipped; when no file of a pass could be sent, the source ends. When the flowgraph is stopped,
    the search for better symbols ends too, and the image has those found by then.

    A flowgraph that is stopped and started again goes on where it was: the image whose burst was cut is sent again from its
    beginning, then those that were waiting, and files follow from the next one (after the last file, from the first).

    Raises ValueError, one line, for an argument that cannot be: a source, codec, rate or device that does not exist, a value of
    another type or out of range.
    """

    @checked()
    def __init__(
        self,
        source="",
        repeat=False,
        codec="lite",
        rate="1/128",
        snr_db=1.0,
        guard=48,
        length_tag=LENGTH_TAG,
        device="cpu",
        effort=0,
    ):
        gr.sync_block.__init__(self, name="jscc_source", in_sig=None, out_sig=[np.complex64])
        self._transmitter = Transmitter(codec, rate, snr_db, device, effort)
        self._silence = np.zeros(guard, np.complex64)
        self._known = reference_length(guard)
        self._silence[: self._known] = reference(self._known)
        self._files = find_images(source) if source else []
        self._repeat, self._skipped = repeat, 0
        self._length_tag = pmt.intern(length_tag)
        self._counters, self._log = Counters("sent", "skipped", "replaced"), StatusLog(self, self._warn)
        self._changed = threading.Condition()
        self._thread = None
        self._running = self._ended = self._stopping = False
        # The way of an image: read from files or taken from the message port, then being encoded, ready, and being sent.
        self._pass = None
        self._waiting, self._encoding, self._steps = collections.deque(), None, 0
        self._ready = collections.deque()
        # Whether live images came.
        self._live = False
        # Of what is being sent: the symbols left, and the absolute index of the silence behind them.
        self._sending, self._burst, self._silence_at = None, np.zeros(0, np.complex64), -1
        self._originals = pmt.intern("originals")
        self.message_port_register_out(self._originals)
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._take_pdu)

    @refuses_bad_values
    def set_rate(self, rate):
        """Changes the rate from the next image encoded. A rate that the codec lacks is logged and changes nothing."""
        self._transmitter.set_rate(rate)

    @refuses_bad_values
    def set_snr_db(self, snr_db):
        """Changes the SNR, dB, from the next image encoded. A bad value is logged and changes nothing."""
        self._transmitter.set_snr_db(snr_db)

    @refuses_bad_values
    def set_effort(self, effort):
        """Changes the encoder's effort, in steps, from the next image encoded. A bad value is logged and changes nothing."""
        self._transmitter.set_effort(effort)

    def skip_files(self, count):
        """Leaves the first ``count`` files of the source out, once. To be called before the flowgraph starts."""
        self._skipped = count % len(self._files) if self._repeat and self._files else count

    def over(self):
        """Whether all images of the source have left it."""
        with self._changed:
            return self._ended and self._sending is None and not self._ready

    def counters(self):
        """{"sent": images on the stream to their last symbol, "skipped": images that could not be read or encoded, "waiting":
        images of the message port that are neither yet; once live images came, "replaced": those that a newer one has replaced}."""
        with self._changed:
            posted = [self._encoding == "posted", *(item is not None and item.posted for item in (*self._ready, self._sending))]
            counted = self._counters.snapshot() | {"waiting": len(self._waiting) + sum(posted)}
            return counted if self._live else {name: number for name, number in counted.items() if name != "replaced"}

    def start(self):
        with self._changed:
            self._stopping = False
            if self._sending is not None:
                self._ready.appendleft(self._sending)
            self._sending, self._burst, self._silence_at = None, self._burst[:0], -1
            if self._files and self._pass is None and not self._ready:
                self._pass = self._read_files()
            self._ended = self._all_encoded()
            # A thread that was still encoding when the flowgraph was stopped goes on.
            if not self._running:
                self._running = True
                self._thread = start_thread(self._run, self.stop, "jscc_source")
        if not self._files:
            self.logger.info("no file or folder of images is named: what comes on the message port is sent")
        return True

    def stop(self):
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(STOP_TIMEOUT)
        waiting = self.counters()["waiting"]
        if waiting:
            self._log.say("stopped", f"stopped with {waiting} images not sent: they are sent when the flowgraph starts again")
        return True

    def work(self, input_items, output_items):
        if not len(self._burst):
            if not self._wait_for_burst():
                return 0
            with self._changed:
                ended = not self._ready
                if not ended:
                    self._sending = self._ready.popleft()
                self._changed.notify_all()
            if ended:
                # Those who listen end with this block.
                self._log.delivery.wait(PATIENCE)
                return -1
            symbols = self._sending.symbols
            self._burst = np.concatenate((symbols.values, self._silence))
            offset = self.nitems_written(0)
            self.add_item_tag(0, offset, self._length_tag, pmt.from_long(len(symbols.values)))
            self.add_item_tag(0, offset, HEADER_TAG, header_to_pmt(symbols.header))
            self._silence_at = offset + len(symbols.values)
        out = output_items[0]
        count = min(len(out), len(self._burst))
        if len(self._silence) and 0 <= self._silence_at - self.nitems_written(0) < count:
            # A packet of its own, for tagged-stream blocks.
            self.add_item_tag(0, self._silence_at, self._length_tag, pmt.from_long(len(self._silence)))
            if self._known:
                self.add_item_tag(0, self._silence_at, REFERENCE_TAG, pmt.from_long(self._known))
        out[:count] = self._burst[:count]
        self._burst = self._burst[count:]
        if self._sending is not None and len(self._burst) <= len(self._silence):
            with self._changed:
                self._sending = None
                self._counters.count("sent")
        return count

    def _wait_for_burst(self):
        """True when an image is ready or none will come."""
        with self._changed:
            if self._changed.wait_for(lambda: self._ready or self._ended, PATIENCE):
                return True
            # The scheduler ends a source that produces nothing once those who send it messages have ended. Images that
            # they have sent are then still to go.
            while self.finished() and (self._encoding or self._waiting):
                steps = self._steps
                if self._changed.wait_for(lambda: self._ready or self._ended, LAST_PATIENCE):
                    return True
                if self._steps == steps:
                    return False
            return False

    def _take_pdu(self, message):
        try:
            pixels, metadata = image_from_pdu(message)
        except ValueError as error:
            return self._skip("not an image", error)
        posted = _Posted(pixels, bool(metadata.get(LIVE)))
        with self._changed:
            self._live |= posted.live
            if posted.live:
                kept = [other for other in self._waiting if not other.live]
                self._counters.count("replaced", len(self._waiting) - len(kept))
                self._waiting = collections.deque(kept)
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(posted)
                self._changed.notify_all()
                return None
        return self._skip("queue full", f"{MAX_WAITING} images are waiting already: send them more slowly")

    def _skip(self, kind, reason):
        """Each file is a kind of its own, so that the log names it."""
        self._counters.count("skipped")
        self._log.note("skipped", f"image skipped: {one_line(reason)}", kind=kind)

    def _warn(self, line):
        self.logger.warn(line)

    # In the thread.

    def _run(self):
        while self._wait_for_work():
            with self._changed:
                pixels = self._waiting.popleft().pixels if self._waiting else None
                self._encoding = "file" if pixels is None else "posted"
            symbols = self._encode(pixels)
            with self._changed:
                if symbols is not None:
                    self._ready.append(_Ready(symbols, self._encoding == "posted"))
                self._encoding = None
                self._ended = self._all_encoded()
                self._changed.notify_all()

    def _all_encoded(self):
        """Whether the flowgraph may end: all files were read. A source of PDUs alone waits for more."""
        return bool(self._files and self._pass is None and not self._waiting)

    def _wait_for_work(self):
        """True when there is an image to encode and room for it; False when the flowgraph has stopped."""

        def due():
            live = bool(self._waiting) and self._waiting[0].live
            return self._stopping or (
                len(self._ready) < (LIVE_AHEAD if live else AHEAD) and (self._waiting or self._pass is not None)
            )

        with self._changed:
            self._changed.wait_for(due)
            self._running = not self._stopping
            return self._running

    def _encode(self, pixels):
        """Symbols of pixels or, where they are None, of the next file; None where there is none, or it was skipped."""
        try:
            if pixels is None:
                pixels = next(self._pass, None)
            if pixels is None:
                self._pass = None
                return None
            symbols = self._transmitter.encode(pixels, self._enough)
            # Making a PDU of an image takes some tens of milliseconds.
            if not pmt.is_null(self.message_subscribers(self._originals)):
                self.message_port_pub(self._originals, image_to_pdu(pixels, {"image_id": symbols.header.image_id}))
            return symbols
        except Exception as error:
            self._skip("not encoded", error)
            return None

    def _enough(self):
        """Whether the search for better symbols ends: a flowgraph that stops does not wait for it."""
        self._steps += 1
        return self._stopping

    def _read_files(self):
        """uint8 images of the files, over and over with ``repeat``; unreadable ones are skipped."""
        while True:
            sent, files, self._skipped = 0, self._files[self._skipped :], 0
            for path in files:
                try:
                    pixels = read_image(path)
                except ValueError as error:
                    self._skip(path, error)
                    continue
                sent += 1
                yield pixels
            if not self._repeat:
                return
            if not sent:
                self._log.say("skipped", "no file of the source could be read: the source ends")
                return
