# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters: what every block, receiver, transmitter and refinement counts with."""

import collections
import threading


class Counters:
    """Numbers by name, counted from any thread. Each count may have a reason.

    names      of the counters, in the order in which they are shown; all start at 0
    by_reason  those of the names that `snapshot` shows as {reason: number}

    Example:
        counters = Counters("received", "decoded", "dropped", by_reason=("dropped",))
        counters.count("received")
        counters.count("dropped", reason="queue full")
        counters.snapshot()  # {"received": 1, "decoded": 0, "dropped": {"queue full": 1}}
    """

    def __init__(self, *names, by_reason=()):
        self._names, self._by_reason = names, frozenset(by_reason)
        self._counts = {name: collections.Counter() for name in names}
        self._lock = threading.Lock()

    def count(self, name, number=1, reason=""):
        """Adds ``number``. Raises KeyError for a name that is not one of the counters."""
        with self._lock:
            self._counts[name][reason] += number

    def __getitem__(self, name):
        """The number of a counter, all reasons together."""
        with self._lock:
            return sum(self._counts[name].values())

    def snapshot(self):
        """{name: number}, or {name: {reason: number}} for names in ``by_reason``: all taken at one moment."""
        with self._lock:
            return {
                name: dict(counts) if name in self._by_reason else sum(counts.values()) for name, counts in self._counts.items()
            }

    def reasons(self):
        """{name: {reason: number}} of the counters that were counted with a reason."""
        with self._lock:
            found = {name: {why: n for why, n in counts.items() if why} for name, counts in self._counts.items()}
        return {name: reasons for name, reasons in found.items() if reasons}
