# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines for what may happen a thousand times a second."""

import threading
import time

#: Seconds between two lines about the same kind of event.
INTERVAL = 10.0


class RateLimitedLog:
    """Logs the first event of a kind at once, then at most one line per ``interval`` seconds with the number of events.

    log       called with each line that is due
    interval  seconds
    clock     returns seconds
    """

    def __init__(self, log, interval=INTERVAL, clock=time.monotonic):
        self._log, self._interval, self._clock = log, interval, clock
        self._kinds = {}
        self._lock = threading.Lock()

    def note(self, kind, line, count=1):
        """Takes ``count`` events of a kind.

        line   str, to which "(n times in t s)" is added where it stands for more than one event; or a function that makes
               the line from the number of events since the last line
        """
        now = self._clock()
        with self._lock:
            logged, pending = self._kinds.get(kind, (None, 0))
            pending += count
            if logged is not None and now - logged < self._interval:
                self._kinds[kind] = logged, pending
                return
            self._kinds[kind] = now, 0
        if callable(line):
            line = line(pending)
        elif pending > 1 and logged is not None:
            line = f"{line} ({pending} times in {now - logged:.0f} s)"
        self._log(line)
