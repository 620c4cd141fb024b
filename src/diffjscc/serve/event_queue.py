# SPDX-License-Identifier: GPL-3.0-or-later
"""Events from other threads for the thread that owns a ZeroMQ socket, which must not be used from two threads."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """A queue with a file descriptor for the owner's poll loop; any thread, or a signal handler, may put events into it.

    It has no bound: whoever puts events into it limits their number.
    """

    def __init__(self) -> None:
        self._events: deque[T] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Readable while there are events."""
        return self._reader.fileno()

    def put(self, event: T) -> None:
        self._events.append(event)
        # A full buffer wakes the owner anyway; a closed socket has no owner any more.
        with suppress(OSError):
            self._writer.send(b"\0")

    def take(self) -> list[T]:
        """Removes and returns all events, oldest first."""
        with suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass
        events = []
        with suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        return events

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
