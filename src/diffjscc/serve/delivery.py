# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies on their way to clients, of whom some read slowly, not at all, or have gone."""

from __future__ import annotations

from collections import deque

import zmq

from .ledger import Ledger

#: Seconds between attempts to hand over what a client did not read; and how many such replies are kept, the newest.
REDELIVERY_SECONDS, UNDELIVERED = 0.05, 256


class Delivery:
    """Sends replies through a ROUTER, and keeps those that a client did not take yet.

    A reply is frames, or the key of an answer that the ledger keeps: such a one takes no memory while it waits.
    """

    def __init__(self, socket: zmq.Socket, ledger: Ledger):
        self._socket, self._ledger = socket, ledger
        self._waiting: dict[bytes, deque[list | tuple]] = {}

    def __bool__(self) -> bool:
        """Whether a reply waits."""
        return bool(self._waiting)

    def send(self, peer: bytes, reply: list | tuple) -> None:
        """Sends a reply; to a client that does not read, later."""
        waiting = self._waiting.get(peer)
        if waiting is None and not self._try(peer, reply):
            waiting = self._waiting[peer] = deque(maxlen=UNDELIVERED)
        if waiting is not None:
            waiting.append(reply)

    def offer(self, peer: bytes, frames: list) -> None:
        """Sends frames that are not worth keeping for a client that does not read."""
        if peer not in self._waiting:
            self._try(peer, frames)

    def send_again(self) -> None:
        """Hands over what waits, as far as clients read."""
        for peer, replies in list(self._waiting.items()):
            while replies and self._try(peer, replies[0]):
                replies.popleft()
            if not replies:
                del self._waiting[peer]

    def _try(self, peer: bytes, reply: list | tuple) -> bool:
        """False where the client's queue is full. One that has vanished misses nothing: it asks again, or never will."""
        if isinstance(reply, tuple):
            answer = self._ledger.answer(reply)
            reply = answer.frames if answer else None
        if reply is not None:
            try:
                self._socket.send_multipart([peer, *reply], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
        return True
