# SPDX-License-Identifier: GPL-3.0-or-later
"""Deduplication: a request that is sent again gets the same reply again, and is not computed again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import msgpack

from .protocol import Frames, Request
from .work import State, Work

#: Bytes that a cached reply takes beside its frames.
OVERHEAD = 1024

#: Fields in which a retry may differ from the request: the deadline has come closer, the others say what to send meanwhile.
#: The image is hashed separately.
NOT_IN_DIGEST = ("deadline", "progress", "preview", "image")


@dataclass(frozen=True)
class CachedReply:
    """The final reply to a request: its frames, and when it was sent."""

    digest: bytes
    frames: Frames
    sent: float

    @property
    def size(self) -> int:
        return OVERHEAD + sum(len(frame) for frame in self.frames)


class DeduplicationCache:
    """The work items that wait or run, by key, and for a limited time the replies to those that are finished.

    max_bytes, max_seconds  of cached replies; the oldest are evicted first. The newest stays, whatever its size
    """

    def __init__(self, max_bytes: int, max_seconds: float = 300.0):
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self.works: dict[Hashable, Work] = {}
        self._replies: OrderedDict[Hashable, CachedReply] = OrderedDict()
        self._bytes = 0

    def reply(self, key: Hashable) -> CachedReply | None:
        return self._replies.get(key)

    def add(self, work: Work) -> None:
        self.works[work.key] = work

    def finish(self, work: Work, frames: Frames, now: float, keep: bool) -> None:
        """Removes a work item; with ``keep`` its reply is cached for retries."""
        del self.works[work.key]
        work.state = State.FINISHED
        if keep:
            self._replies[work.key] = reply = CachedReply(work.digest, frames, now)
            self._bytes += reply.size
        self.evict(now)

    def evict(self, now: float) -> None:
        """Removes the oldest replies until the bounds are met."""
        while self._replies:
            oldest = next(iter(self._replies.values()))
            too_many_bytes = self._bytes > self.max_bytes and len(self._replies) > 1
            if not too_many_bytes and now - oldest.sent <= self.max_seconds:
                return
            self._replies.popitem(last=False)
            self._bytes -= oldest.size


def request_digest(request: Request) -> bytes:
    """SHA-256 of a request's content; equal for a request and its retries."""
    header = [(name, value) for name, value in vars(request).items() if name not in NOT_IN_DIGEST]
    digest = hashlib.sha256(msgpack.packb(header))
    digest.update(request.image)
    return digest.digest()
