# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of the caller's functions in a thread of their own, in order: whatever they do, the client goes on."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Callbacks:
    """Runs calls one after the other. The thread begins with the first one. An error is logged, and the next call follows."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, call: Callable[[], object]) -> None:
        """Runs a call later; once this is closed, at once, in the caller's thread."""
        with self._lock:
            if not self._closed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-callbacks")
                    self._thread.start()
                self._calls.put(call)
                return
        _try(call)

    def close(self, timeout: float) -> None:
        """Waits for the calls that are outstanding; in a callback it does not wait."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._calls.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _try(call)
            del call


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("a callback failed; the client goes on")
