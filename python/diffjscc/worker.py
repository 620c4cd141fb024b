# SPDX-License-Identifier: GPL-3.0-or-later
"""A thread that does what a block's `work` must not: run networks, read and write files."""

import collections
import logging
import threading
from dataclasses import dataclass

from .threads import start_thread

#: What a worker may do when its queue is full.
POLICIES = ("wait", "drop")

#: Seconds that a stopping flowgraph finishes what a block has taken, by policy; what is left is counted.
DRAIN_TIMEOUT = {"wait": 60.0, "drop": 0.8}

#: Seconds that `Worker.stop` waits for its thread to end after the last item.
JOIN_TIMEOUT = 0.1

_NOTHING = object()


def check_queue(queue_size, on_full):
    """Raises ValueError for a size below 1 or an unknown policy."""
    if on_full not in POLICIES:
        raise ValueError(f"on_full = {on_full!r} is not one of {', '.join(POLICIES)}")
    if not isinstance(queue_size, int) or queue_size < 1:
        raise ValueError(f"queue size {queue_size!r}: must be a whole number of at least 1")


@dataclass
class _Run:
    """One start of a worker: its thread, and the item that the thread has taken."""

    thread: threading.Thread | None = None
    item: object = _NOTHING
    claimed: bool = False


class Worker:
    """Calls ``handle(item)`` for each submitted item, in order, in a thread of its own.

    For each item that `submit` took, exactly one of these is called:

    done(item, result)     handle returned; called in the worker's thread
    failed(item, error)    handle raised; called in the worker's thread
    dropped(item, reason)  "queue full": newer items came and on_full is "drop"; "stopped": `stop` did not wait for it

    At most ``size`` items wait. When they do, ``on_full`` decides what `submit` makes of another one: "wait" refuses it, and
    the caller holds its input back; "drop" takes it and drops the oldest.
    """

    def __init__(self, handle, done, failed, dropped, size=4, on_full="wait", name="diffjscc-worker"):
        check_queue(size, on_full)
        self._handle, self._done, self._failed, self._dropped = handle, done, failed, dropped
        self._size, self._on_full, self._name = size, on_full, name
        self._items = collections.deque()
        self._run, self._stopped = _Run(), False
        self._changed = threading.Condition()

    def start(self):
        """Starts the thread; a stopped worker may be started again."""
        with self._changed:
            self._stopped = False
            run = self._run = _Run()
            run.thread = start_thread(lambda: self._loop(run), lambda: self.stop(0.0), self._name)

    def submit(self, item, timeout=0.0):
        """Queues an item. False, and the item is still the caller's, if there was no room within ``timeout`` seconds."""
        with self._changed:
            if self._on_full == "wait":
                self._changed.wait_for(lambda: len(self._items) < self._size or self._stopped, timeout)
                if len(self._items) >= self._size:
                    return False
            if self._stopped:
                return False
            oldest = self._items.popleft() if len(self._items) >= self._size else _NOTHING
            self._items.append(item)
            self._changed.notify_all()
        if oldest is not _NOTHING:
            self._dropped(oldest, "queue full")
        return True

    @property
    def unfinished(self):
        """Items that wait or are being worked on."""
        with self._changed:
            return self._count()

    @property
    def idle(self):
        return self.unfinished == 0

    @property
    def interrupted(self):
        """For ``handle`` to ask, between the steps of something long: whether `stop` has given its item up."""
        return self._run.thread is not threading.current_thread()

    def wait_idle(self, timeout):
        """True once nothing waits or runs; False if ``timeout`` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count(), timeout)

    def stop(self, timeout):
        """Finishes what is queued, for at most ``timeout`` seconds, then ends the thread. False if items were dropped.

        An item that is being computed by then is dropped too. What cannot be interrupted goes on in the old thread, and its
        result is thrown away; the worker may be started again meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._count(), timeout)
            self._stopped = True
            run, self._run = self._run, _Run()
            left = list(self._items)
            self._items.clear()
            if run.item is not _NOTHING and not run.claimed:
                left.insert(0, run.item)
                run.claimed = True
            self._changed.notify_all()
        for item in left:
            self._dropped(item, "stopped")
        if run.thread is not None and run.thread is not threading.current_thread():
            run.thread.join(JOIN_TIMEOUT)
        return not left

    def _count(self):
        return len(self._items) + (self._run.item is not _NOTHING)

    def _loop(self, run):
        while self._take(run):
            try:
                result, error = self._handle(run.item), None
            except Exception as caught:
                result, error = None, caught
            with self._changed:
                if run.claimed:
                    return
                run.claimed = True
            try:
                if error is None:
                    self._done(run.item, result)
                else:
                    self._failed(run.item, error)
            except Exception:
                # The item is accounted for; the thread must live on for the next one.
                logging.getLogger(__name__).exception("%s: an image was computed, and what follows failed", self._name)
            with self._changed:
                run.item, run.claimed = _NOTHING, False
                self._changed.notify_all()

    def _take(self, run):
        """Waits for an item and takes it; False once the run is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._run is not run)
            if self._run is not run:
                return False
            run.item = self._items.popleft()
            self._changed.notify_all()
            return True
