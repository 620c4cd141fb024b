# SPDX-License-Identifier: GPL-3.0-or-later
"""How other threads reach the one that owns a ZeroMQ socket, which no two threads may share."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress


class Mailbox:
    """Things put in by any thread, or by a signal handler, and a file descriptor that wakes the owner's poll loop.

    It has no bound of its own: whoever puts in something answers for how many there are.
    """

    def __init__(self):
        self._items: deque = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def put(self, item) -> None:
        self._items.append(item)
        # A full pipe already wakes the owner; a closed one has none any more.
        with suppress(OSError):
            self._writer.send(b"\0")

    def take(self) -> list:
        """All that was put in, oldest first."""
        with suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass
        items = []
        with suppress(IndexError):
            while True:
                items.append(self._items.popleft())
        return items

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
