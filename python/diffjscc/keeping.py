# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc-rx --keep`: the last samples, saved as SigMF where a burst could not be read, for reports of faults."""

import datetime
import json
import math
import shutil
import threading
import time
from pathlib import Path

import numpy as np
from gnuradio import gr

from .recordings import capture_of, global_fields, recording_paths

#: Bytes of memory, at most.
MAX_MEMORY = 1 << 30

#: Files that one run saves, at most, and the least seconds between two.
MAX_FILES, MIN_INTERVAL = 5, 10.0

#: Bytes that a disk must have free behind a file.
SPARED = 1 << 30

#: Seconds of samples after the burst that are saved, too.
AFTER = 1.0

#: Seconds that `close` waits for a file to be written.
CLOSE_TIMEOUT = 30.0

#: Reasons for which bursts are dropped that samples do not explain.
NO_FAULT = frozenset({"stopped", "queue full"})


class keeper(gr.sync_block):
    """Keeps the last samples in memory, and saves them when `look` sees that a burst could not be read.

    Input: complex samples.

    seconds      how many
    folder       of the files kept-DATE-TIME.sigmf-data and -meta; at most MAX_FILES of them a run, one in ``seconds`` and not more
                 than one in 10 s, and none that would leave less than 1 GiB free on the disk
    say          called with a line for each file, and for each that is not saved

    Raises ValueError, one line, for more samples than 1 GiB of memory holds.
    """

    def __init__(self, seconds, folder, sample_rate, frequency, say):
        gr.sync_block.__init__(self, name="keeper", in_sig=[np.complex64], out_sig=None)
        count = math.ceil(seconds * sample_rate)
        if 8 * count > MAX_MEMORY:
            most = MAX_MEMORY / 8 / sample_rate
            raise ValueError(
                f"--keep {seconds:g} at {sample_rate:g} samples/s needs {8e-9 * count:.1f} GB: at most {most:.0f} s fit 1 GiB"
            )
        self._ring, self._folder = np.zeros(max(count, 1), np.complex64), Path(folder)
        self._rate, self._frequency, self._say = sample_rate, frequency, say
        self._interval = max(seconds, MIN_INTERVAL)
        self._seen = 0
        self._lock = threading.Lock()
        self._counted, self._next, self._saved = None, 0.0, 0
        self._stopping, self._thread = threading.Event(), None

    def work(self, input_items, output_items):
        samples = input_items[0][-len(self._ring) :]
        with self._lock:
            place = (self._seen + len(input_items[0]) - len(samples)) % len(self._ring)
            first = min(len(samples), len(self._ring) - place)
            self._ring[place : place + first] = samples[:first]
            self._ring[: len(samples) - first] = samples[first:]
            self._seen += len(input_items[0])
        return len(input_items[0])

    def look(self, counters, reasons):
        """To be called now and then with a receiver's counters and reasons: saves where more bursts could not be read."""
        bad = {"rejected": counters["bursts"]["rejected"]}
        bad |= {why: number for why, number in reasons.get("dropped", {}).items() if why not in NO_FAULT}
        before, self._counted = self._counted or {}, bad
        fresh = [name for name, number in bad.items() if number > before.get(name, 0)]
        busy = self._thread is not None and self._thread.is_alive()
        if fresh and not busy and self._saved < MAX_FILES and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self._thread = threading.Thread(target=self._save, args=(", ".join(fresh), self._seen), daemon=True, name="keeper")
            self._thread.start()

    def start(self):
        self._stopping.clear()
        return True

    def stop(self):
        self.close()
        return True

    def close(self):
        """Saves at once what is to be saved, and waits for it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    def _save(self, reason, seen):
        self._stopping.wait(AFTER)
        with self._lock:
            place = self._seen % len(self._ring)
            if self._seen < len(self._ring):
                samples = self._ring[: self._seen].copy()
            else:
                samples = np.concatenate((self._ring[place:], self._ring[:place]))
            first = self._seen - len(samples)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < samples.nbytes + SPARED:
                self._say(f"the last samples are not kept: less than 1 GiB would be left free in {self._folder}")
                return
            self._write(samples, reason, seen - first)
            self._saved += 1
        except OSError as error:
            self._say(f"the last samples are not kept: {self._folder}: {(error.strerror or str(error)).lower()}")

    def _write(self, samples, reason, place):
        now = datetime.datetime.now(datetime.timezone.utc)
        data, meta = recording_paths(self._folder / f"kept-{now.strftime('%Y%m%d-%H%M%S')}")
        began = now - datetime.timedelta(seconds=len(samples) / self._rate)
        # The burst that could not be read lies before the place where this was seen.
        annotation = {
            "core:sample_start": max(0, min(place, len(samples) - 1)),
            "core:sample_count": 0,
            "core:comment": f"seen: {reason}",
        }
        description = f"the last {len(samples) / self._rate:.1f} s before a burst that could not be read ({reason})"
        parts = {
            "global": global_fields(self._rate, description),
            "captures": [capture_of(0, began, self._frequency)],
            "annotations": [annotation],
        }
        try:
            with open(data, "xb") as file:
                samples.tofile(file)
            meta.write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")
        except BaseException:
            data.unlink(missing_ok=True)
            raise
        self._say(f"a burst could not be read ({reason}): the last {len(samples) / self._rate:.1f} s are in {data}")
