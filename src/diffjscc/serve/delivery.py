# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivery of replies to clients that may read slowly, not at all, or be gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

import zmq

from .deduplication import DeduplicationCache
from .protocol import Frames

#: Seconds between attempts to deliver what a client did not read; and how many such replies are kept per client, the newest.
REDELIVERY_SECONDS, UNDELIVERED = 0.05, 256


@dataclass(frozen=True)
class Cached:
    """A reply that is in the deduplication cache under ``key``: while it waits for delivery it takes no further memory."""

    key: Hashable


class Delivery:
    """Sends replies through a ROUTER socket, and keeps those that a client has not accepted yet."""

    def __init__(self, socket: zmq.Socket, cache: DeduplicationCache):
        self._socket, self._cache = socket, cache
        self._waiting: dict[bytes, deque[Frames | Cached]] = {}

    def __bool__(self) -> bool:
        """Whether a reply waits."""
        return bool(self._waiting)

    def send(self, peer: bytes, reply: Frames | Cached) -> None:
        """Sends a reply, or queues it where the client does not read at present."""
        waiting = self._waiting.get(peer)
        if waiting is None and not self._try(peer, reply):
            waiting = self._waiting[peer] = deque(maxlen=UNDELIVERED)
        if waiting is not None:
            waiting.append(reply)

    def offer(self, peer: bytes, frames: Frames) -> None:
        """Sends frames, or drops them where the client does not read at present."""
        if peer not in self._waiting:
            self._try(peer, frames)

    def send_again(self) -> None:
        """Sends the replies that wait, as far as clients accept them."""
        for peer, replies in list(self._waiting.items()):
            while replies and self._try(peer, replies[0]):
                replies.popleft()
            if not replies:
                del self._waiting[peer]

    def _try(self, peer: bytes, reply: Frames | Cached) -> bool:
        """False where the client's queue is full. A reply to a client that is gone is dropped: it will ask again if it returns."""
        frames: Frames | None
        if isinstance(reply, Cached):
            cached = self._cache.reply(reply.key)
            frames = None if cached is None else cached.frames
        else:
            frames = reply
        if frames is not None:
            try:
                self._socket.send_multipart([peer, *frames], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
        return True
