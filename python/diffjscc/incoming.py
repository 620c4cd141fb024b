# SPDX-License-Identifier: GPL-3.0-or-later
"""What jscc_sink has received and its decoder has not yet: from tagged symbols to whole images."""

import collections
import threading
import time

import numpy as np

from diffjscc.air.gatherer import Gatherer
from diffjscc.snr import noise_variance

from .bursts import BurstAssembler
from .reference import ReferenceCheck


class Incoming:
    """Cuts a symbol stream into bursts, and puts the images together that came in fragments.

    length_tag  name of the length tag
    receiver    Receiver, for codecs' numbers and the SNR of fragments
    deadline    seconds without a fragment after which an incomplete image is complete; None to wait
    log         StatusLog
    ended       deque of what can be decoded: a `Burst`, or the (ImageHeader, Reception) of an image that came in fragments
    """

    def __init__(self, length_tag, receiver, deadline, log):
        self._receiver, self._deadline, self._log = receiver, deadline, log
        self._assembler = BurstAssembler(length_tag, receiver.find_codec)
        self._gatherer = Gatherer(deadline)
        self._references = ReferenceCheck()
        # A live receiver's clock expires images while `work` adds to them.
        self._lock = threading.Lock()
        self._untagged_told = self._late_told = 0
        self._starved_since = None
        self.ended = collections.deque()

    @property
    def stray(self):
        """Symbols outside any burst."""
        return self._assembler.stray

    @property
    def late(self):
        """Fragments of images that had been given up."""
        return self._gatherer.late

    @property
    def distorted(self):
        """References behind bursts that did not arrive as they were sent."""
        return self._references.distorted

    @property
    def idle(self):
        """Whether nothing waits for more symbols or for the decoder."""
        return not self.ended and not self._gatherer.waiting

    def push(self, symbols, offset, tags, noise_var):
        """Takes complex64 (n,), the absolute index of the first, their tags, and float32 (n,) or None."""
        self._starved_since = None
        self._gather(self._assembler.push(symbols, offset, tags, noise_var))
        self._tell_untagged()
        self._tell_late()
        self._tell_distorted(self._references.push(symbols, offset, tags))

    def expire(self):
        """The image whose deadline has passed, in a list: for receivers whose stream goes on."""
        with self._lock:
            return self._gatherer.expire(time.monotonic())

    def starve(self):
        """To be called again and again while no symbol comes: after the deadline, what is incomplete has ended.

        Where the stream is held back, time counts only while it waits for symbols.
        """
        if not self._gatherer.waiting or self._deadline is None:
            return
        self._starved_since = self._starved_since or time.monotonic()
        if time.monotonic() - self._starved_since > self._deadline:
            self._finish()

    def flush(self):
        """The stream is over: what is open has ended."""
        last = self._assembler.flush()
        if last is not None:
            self._gather([last])
        self._finish()
        self._tell_untagged()
        self._tell_distorted(self._references.flush())
        self._references.restart()

    def _finish(self):
        with self._lock:
            self.ended.extend(self._gatherer.flush())

    def _gather(self, bursts):
        for burst in bursts:
            if burst.fragment is None:
                self.ended.append(burst)
                continue
            snr_db = self._receiver.snr_db_of(burst.values, burst.snr_db)
            noise_var = burst.noise_var
            if noise_var is None:
                noise_var = np.full(len(burst.values), noise_variance(snr_db), np.float32)
            with self._lock:
                now, callsign = time.monotonic(), burst.callsign
                self.ended.extend(self._gatherer.push(burst.fragment, burst.values, noise_var, snr_db, now, callsign))

    def _tell_untagged(self):
        fresh, self._untagged_told = self._assembler.untagged - self._untagged_told, self._assembler.untagged
        if fresh:
            self._log.note(
                "untagged",
                lambda count: (
                    f"{count} symbols outside any burst: a block before this one loses the tags that mark where bursts"
                    " begin (image_header and the length tag), or the silence behind each burst is longer than the burst"
                ),
                fresh,
            )

    def _tell_late(self):
        fresh, self._late_told = self.late - self._late_told, self.late
        if fresh:
            self._log.note(
                "late",
                lambda count: (
                    f"{count} late fragments thrown away: their images were decoded without them; bursts came out of"
                    f" order, or a pause within an image was longer than the deadline of {self._deadline} s"
                ),
                fresh,
            )

    def _tell_distorted(self, found):
        for what in found:
            self._log.note(
                "distorted",
                "symbols do not arrive as jscc_source sent them, and images come out wrong: the known ones behind a burst"
                f" {what}. jscc_sink cannot undo that: put JSCC TX and JSCC RX at the ends of a radio or of any channel but noise;"
                " in front of JSCC Sink, Channel Model needs the taps [0, 0, 0, 1], because it moves symbols and not their tags",
            )
