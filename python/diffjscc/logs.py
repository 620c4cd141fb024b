# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines and status messages for what may happen a thousand times a second."""

import threading
import time

import pmt

from .delivery import Delivery

#: Seconds between two lines about the same kind of event.
INTERVAL = 10.0

#: Seconds between two status messages about the same kind of event.
STATUS_INTERVAL = 1.0


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

        Returns the number of events that the line stands for; 0 where no line was due.
        """
        now = self._clock()
        with self._lock:
            logged, pending = self._kinds.get(kind, (None, 0))
            pending += count
            if logged is not None and now - logged < self._interval:
                self._kinds[kind] = logged, pending
                return 0
            self._kinds[kind] = now, 0
        if callable(line):
            line = line(pending)
        elif pending > 1 and logged is not None:
            line = f"{line} ({pending} times in {now - logged:.0f} s)"
        self._log(line)
        return pending


class StatusLog:
    """A block's log lines, and the same as messages on its port ``status``, which this registers.

    A status message is a PMT dictionary: block (its alias), event (a word for the kind), count (events since the last message
    of this kind), line (what the log says). At most one in 10 s of each kind is logged, one a second is published. What a block
    says when its flowgraph has stopped is logged and reaches no subscriber.

    block   the GNU Radio block
    warn    called with each line for the log
    """

    def __init__(self, block, warn):
        self._block, self._warn = block, warn
        self._log = RateLimitedLog(warn)
        self._published = {}
        self._lock = threading.Lock()
        #: Of the messages.
        self.delivery = Delivery(block, "status")

    def note(self, event, line, count=1, kind=None):
        """Takes ``count`` events; ``line`` as in RateLimitedLog. Events of different ``kind`` do not wait for each other."""
        kind = kind or event
        self._log.note(kind, line, count)
        status = self._published.get(kind)
        if status is None:
            with self._lock:
                status = self._published.setdefault(kind, RateLimitedLog(lambda text: None, STATUS_INTERVAL))
        fresh = status.note(kind, lambda number: "", count)
        if fresh:
            self._publish(event, line(fresh) if callable(line) else line, fresh)

    def say(self, event, line):
        """Logs and publishes a line at once, for what happens seldom."""
        self._warn(line)
        self._publish(event, line, 1)

    def _publish(self, event, line, count):
        fields = {"block": self._block.alias(), "event": event, "count": count, "line": line}
        self.delivery.publish("status", pmt.to_pmt(fields))
