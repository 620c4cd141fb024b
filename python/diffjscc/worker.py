# SPDX-License-Identifier: GPL-3.0-or-later
"""A thread that does what a block's `work` must not: run networks, read and write files."""

import collections
import threading


class Worker:
    """Calls ``handle(item)`` for each submitted item, in order, in a thread of its own.

    At most ``size`` items wait. When they do, ``on_full`` decides what `submit` makes of another: "wait" refuses it, and
    the caller holds its input back; "drop" takes it, throws the oldest away and tells ``dropped(item)``.
    ``handle`` must not raise; what it raises all the same goes to ``failed(item, error)`` and the thread lives on.
    """

    POLICIES = ("wait", "drop")

    def __init__(self, handle, failed, dropped=None, size=4, on_full="wait"):
        if on_full not in self.POLICIES:
            raise ValueError(f"on_full = {on_full!r} is not one of {', '.join(self.POLICIES)}")
        if size < 1:
            raise ValueError(f"queue size {size}: must be at least 1")
        self._handle, self._failed, self._dropped = handle, failed, dropped
        self._size, self._on_full = size, on_full
        self._items = collections.deque()
        self._busy = self._stopping = False
        self._changed = threading.Condition()
        self._thread = None

    def start(self):
        """Starts the thread; a stopped worker may be started again."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-worker")
        self._thread.start()

    def submit(self, item, timeout=0.0):
        """Queues an item; False if there was no room within ``timeout`` seconds (policy "wait" only)."""
        with self._changed:
            if self._on_full == "wait":
                if not self._changed.wait_for(lambda: len(self._items) < self._size or self._stopping, timeout):
                    return False
                if self._stopping:
                    return False
            thrown_away = self._items.popleft() if len(self._items) >= self._size else None
            self._items.append(item)
            self._changed.notify_all()
        if thrown_away is not None:
            self._dropped(thrown_away)
        return True

    def wait_idle(self, timeout):
        """True once nothing is queued or running; False if ``timeout`` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._items and not self._busy, timeout)

    @property
    def idle(self):
        with self._changed:
            return not self._items and not self._busy

    def stop(self, drain_timeout):
        """Finishes what is queued, for at most ``drain_timeout`` seconds, then ends the thread. False if items were left."""
        drained = self.wait_idle(drain_timeout)
        with self._changed:
            self._stopping = True
            self._items.clear()
            self._changed.notify_all()
        # An item that is still running cannot be interrupted; the thread is a daemon and ends after it.
        self._thread.join(1.0)
        return drained

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._stopping)
                if self._stopping:
                    return
                item = self._items.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                self._handle(item)
            except Exception as error:
                self._failed(item, error)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
