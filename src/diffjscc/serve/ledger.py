# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of each request: so that one that is asked again is answered again, and not computed again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import msgpack

from .batching import Work
from .protocol import Request

#: Bytes that a kept answer takes beside its image.
OVERHEAD = 1024

#: Fields that may differ between a request and its retry: the deadline shrinks, the rest is about the way back.
NOT_IN_DIGEST = ("deadline", "progress", "preview", "image")


@dataclass(frozen=True)
class Answer:
    """The final reply to a request: its frames, and when it was given."""

    digest: bytes
    frames: list
    given: float

    @property
    def size(self) -> int:
        return OVERHEAD + sum(len(frame) for frame in self.frames)


class Ledger:
    """Works that are waiting or running, by key, and for a while the answers of those that are done.

    max_bytes, max_seconds  of answers; the oldest go first. The newest stays, whatever its size
    """

    def __init__(self, max_bytes: int, max_seconds: float = 300.0):
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self.works: dict[Hashable, Work] = {}
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._bytes = 0

    def answer(self, key: Hashable) -> Answer | None:
        return self._answers.get(key)

    def open(self, work: Work) -> None:
        self.works[work.key] = work

    def close(self, work: Work, frames: list, now: float, keep: bool) -> None:
        """A work is done; ``keep`` where its answer is the one for every retry."""
        del self.works[work.key]
        if keep:
            self._answers[work.key] = answer = Answer(work.digest, frames, now)
            self._bytes += answer.size
        self.trim(now)

    def trim(self, now: float) -> None:
        """Forgets the oldest answers beyond the bounds."""
        while self._answers:
            oldest = next(iter(self._answers.values()))
            crowded = self._bytes > self.max_bytes and len(self._answers) > 1
            if not crowded and now - oldest.given <= self.max_seconds:
                return
            self._answers.popitem(last=False)
            self._bytes -= oldest.size


def digest_of(request: Request) -> bytes:
    """Of all that makes a request what it is."""
    header = [(name, value) for name, value in vars(request).items() if name not in NOT_IN_DIGEST]
    digest = hashlib.sha256(msgpack.packb(header))
    digest.update(request.image)
    return digest.digest()
