# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording samples as SigMF, https://sigmf.org, while they are received."""

import bisect
import collections
import datetime
import errno
import io
import json
import math
import os
import threading
import time

import numpy as np
import pmt
from gnuradio import gr

from .recordings import DATATYPES, capture_of, global_fields, recording_paths

#: Bytes that may wait for the disk: 0.8 s at 10 Msps.
QUEUE = 64 << 20

#: Seconds between two writings of the metadata while annotations come.
METADATA_INTERVAL = 1.0

#: Seconds that a flowgraph which stops waits for the disk.
CLOSE_TIMEOUT = 30.0

#: Tags of a radio that tell a new time, frequency or sample rate.
_RX_TIME, _RX_FREQUENCY, _RX_RATE = (pmt.intern(name) for name in ("rx_time", "rx_freq", "rx_rate"))


class recorder(gr.sync_block):
    """Records complex samples as SigMF, beside whatever else a flowgraph does.

    Input: complex samples. A tag rx_time, rx_freq or rx_rate, such as UHD's source sends after an overflow, begins a new capture.

    name         of the recording, with or without suffix; neither of its two files may exist
    sample_rate  samples/s
    frequency    of the carrier, Hz; None where it is not known
    hold_back    where the disk is slower than the samples: True makes the flowgraph wait (replayed files); False leaves samples
                 out, counts them as `lost`, and begins a new capture behind them (live radios)
    description  what the recording is of, for its metadata

    A thread writes the samples; the metadata are complete from the first second on, so that a recording of a program which is
    killed can be read. Where the disk is full or fails, recording ends with what was written, `failed` tells why, and the
    flowgraph goes on.

    Raises ValueError, one line, where it cannot write there.
    """

    def __init__(self, name, sample_rate, frequency=None, hold_back=False, description=""):
        gr.sync_block.__init__(self, name="recorder", in_sig=[np.complex64], out_sig=None)
        self._data, self._meta = recording_paths(name)
        self._global = global_fields(sample_rate, description)
        self._global["core:extensions"] = [{"name": "diffjscc", "version": "1.0.0", "optional": True}]
        self._frequency, self._hold_back = frequency, hold_back
        self._captures, self._annotations = [], []
        # Of each capture: the first sample's place in the stream, and in the file. A flowgraph that starts anew counts its samples
        # from 0: their places in the stream go on from ``_base``.
        self._stream_starts, self._file_starts, self._base, self._end = [], [], 0, 0
        self._chunks, self._waiting = collections.deque(), 0
        # Samples that were queued so far.
        self._queued = 0
        #: Samples that a slow disk left out.
        self.lost = 0
        #: Why recording ended before its time, one line; None while it goes on.
        self.failed = None
        self._expected = None
        self._stopping, self._dirty, self._thread = False, True, None
        self._changed = threading.Condition()
        self._file = self._create()

    def annotate(self, start, count, label="", comment="", **fields):
        """Describes samples, from any thread.

        start    of the samples in the stream, from 0, as blocks behind the same source count them
        count    samples
        label    short, shown by viewers such as inspectrum
        fields   further ones of the annotation, such as snr_db=12.5; "diffjscc:" is put before their names. Numbers that are not
                 finite are left out

        Samples that are not in the recording are not described.
        """
        entry = {"core:label": label, "core:comment": comment}
        entry = {key: value for key, value in entry.items() if value}
        for key, value in fields.items():
            if not isinstance(value, float) or math.isfinite(value):
                entry[f"diffjscc:{key}"] = value
        with self._changed:
            # A detector may be some samples off at the very beginning.
            self._annotations.append((self._base + max(0, int(start)), int(count), entry))
            self._dirty = True

    def finish(self):
        """To be called when the flowgraph has ended: describes what blocks found after the last sample was recorded."""
        if self._dirty:
            try:
                self._save()
            except OSError as error:
                self.failed = self.failed or f"{self._meta}: {error.strerror.lower()}: annotations are missing"

    def start(self):
        with self._changed:
            self._stopping = False
            self._base, self._expected = self._end, None
        self._thread = threading.Thread(target=self._write, daemon=True, name="recorder")
        self._thread.start()
        return True

    def stop(self):
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)
            if self._thread.is_alive() and self.failed is None:
                self._give_up("the disk is too slow", keep=True)
        return True

    def work(self, input_items, output_items):
        samples = input_items[0]
        if self.failed is not None:
            return len(samples)
        first, count = self._base + self.nitems_read(0), len(samples)
        with self._changed:
            if self._hold_back:
                ready = self._changed.wait_for(lambda: self._waiting < QUEUE or self.failed or self._stopping, 0.1)
                if not ready:
                    return 0
            elif self._waiting >= QUEUE:
                self.lost += count
                self._end, self._expected = first + count, None
                return count
            self._note_captures(first, count)
            self._chunks.append(samples.tobytes())
            self._waiting += samples.nbytes
            self._queued += count
            self._end = self._expected = first + count
            self._changed.notify_all()
        return count

    def _note_captures(self, first, count):
        news = collections.defaultdict(dict)
        if self._expected != first:
            news[first] = {}
        for tag in self.get_tags_in_window(0, 0, count):
            offset = self._base + tag.offset
            if pmt.eqv(tag.key, _RX_TIME):
                seconds, fraction = (pmt.tuple_ref(tag.value, n) for n in range(2))
                news[offset]["diffjscc:rx_time"] = pmt.to_uint64(seconds) + pmt.to_double(fraction)
            elif pmt.eqv(tag.key, _RX_FREQUENCY):
                self._frequency = pmt.to_double(tag.value)
                news[offset]["core:frequency"] = self._frequency
            elif pmt.eqv(tag.key, _RX_RATE) and pmt.to_double(tag.value) != self._global["core:sample_rate"]:
                news[offset]["diffjscc:rx_rate"] = pmt.to_double(tag.value)
        for offset in sorted(news):
            self._begin_capture(offset, self._queued + offset - first, news[offset])

    def _begin_capture(self, offset, place, fields):
        capture = capture_of(place, datetime.datetime.now(datetime.timezone.utc), self._frequency)
        # The index tells how many samples are missing before.
        self._captures.append(capture | {"core:global_index": offset} | fields)
        self._stream_starts.append(offset)
        self._file_starts.append(place)
        self._dirty = True

    # Files.

    def _create(self):
        try:
            if self._data.exists() or self._meta.exists():
                raise ValueError(f"{self._data if self._data.exists() else self._meta}: exists: give the recording another name")
            file = io.FileIO(self._data, "x")
        except OSError as error:
            raise ValueError(f"{self._data}: {error.strerror.lower()}") from None
        try:
            self._save()
        except OSError as error:
            file.close()
            self._data.unlink()
            raise ValueError(f"{self._meta}: {error.strerror.lower()}") from None
        return file

    def _save(self):
        """Writes the metadata, whole or not at all."""
        with self._changed:
            self._dirty = False
            text = json.dumps({"global": self._global, "captures": self._captures, "annotations": self._described()}, indent=2)
        partial = self._meta.with_name(f".{self._meta.name}.part")
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            os.replace(partial, self._meta)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _described(self):
        """The annotations of samples that are recorded, in SigMF's order."""
        found = []
        for start, count, entry in self._annotations:
            number = bisect.bisect_right(self._stream_starts, start) - 1
            if number < 0:
                continue
            place = self._file_starts[number] + start - self._stream_starts[number]
            end = self._file_starts[number + 1] if number + 1 < len(self._file_starts) else self._queued
            if place < end:
                found.append({"core:sample_start": place, "core:sample_count": min(count, end - place)} | entry)
        return sorted(found, key=lambda annotation: annotation["core:sample_start"])

    def _write(self):
        """The thread: writes what comes until the flowgraph stops."""
        due = time.monotonic()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._chunks or self._stopping, METADATA_INTERVAL)
                    chunks, self._chunks = self._chunks, collections.deque()
                    over = self._stopping and not chunks
                while chunks:
                    chunk = chunks.popleft()
                    self._append(chunk)
                    with self._changed:
                        self._waiting -= len(chunk)
                        self._changed.notify_all()
                began = time.monotonic()
                if over or self._dirty and began >= due:
                    self._save()
                    # Many annotations take long to write: at most 5 % of the time.
                    due = time.monotonic() + max(METADATA_INTERVAL, 20 * (time.monotonic() - began))
                if over:
                    return
        except OSError as error:
            self._give_up(error.strerror.lower())

    def _append(self, chunk):
        rest = memoryview(chunk)
        while rest:
            count = self._file.write(rest)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[count:]

    def _give_up(self, reason, keep=False):
        """Ends the recording with the samples that are in the file whole, and makes room for their description."""
        with self._changed:
            self._chunks.clear()
            written = self._file.tell() // DATATYPES["cf32_le"]
            self._waiting, self._queued = 0, written
            kept = [n for n, place in enumerate(self._file_starts) if place < self._queued] or [0]
            for entries in (self._captures, self._stream_starts, self._file_starts):
                del entries[kept[-1] + 1 :]
        if not keep:
            for spared in (0, 1 << 12, 1 << 16, 1 << 20):
                self._queued = max(0, written - spared // DATATYPES["cf32_le"])
                try:
                    self._file.truncate(self._queued * DATATYPES["cf32_le"])
                    self._save()
                    break
                except OSError:
                    continue
        self.failed = f"{self._data}: {reason}: recording ended after {self._queued} samples, reception goes on"
        with self._changed:
            self._changed.notify_all()
