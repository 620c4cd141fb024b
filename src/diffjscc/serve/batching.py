# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests are computed together, and when: pure logic, told the time by its caller."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from .protocol import CHANNELS, Request

#: Pixels of a batch, unless a single image has more: what a GPU of 8 GB, or a patient CPU, takes at once.
BATCH_PIXELS = 1 << 23

#: Bytes of pixels that may wait, whatever the number of images.
QUEUE_BYTES = 1 << 30


@dataclass(eq=False)
class Work:
    """A request on its way through the server. Times are the caller's clock's, s.

    key       who asked, and their id: the same key is never computed twice
    digest    of what makes the request what it is, to tell a retry from another request under the same id
    peer      the connection that is to be answered: the last one that asked
    pixels    uint8 (H, W, 3), once decoded: only then can it be gathered
    told      when the client was last told of a step, and step: which
    """

    key: Hashable
    digest: bytes
    request: Request
    peer: bytes
    arrived: float
    deadline: float
    pixels: np.ndarray | None = None
    ready: float = 0.0
    told: float = -1.0
    step: int = 0

    @property
    def kind(self) -> tuple:
        """Requests of one kind can be computed together."""
        r = self.request
        return r.refiner, r.steps, r.sampler, r.width, r.height, r.prompt is None

    @property
    def size(self) -> int:
        """Bytes of pixels."""
        return self.request.width * self.request.height * CHANNELS


class Batcher:
    """A bounded queue that gives its works out in batches of one kind, oldest first.

    max_queue  works that may wait; one more is refused
    max_batch  works of a batch
    window     seconds that a work waits for others of its kind: what batching may cost in latency
    """

    def __init__(self, max_queue: int = 64, max_batch: int = 8, window: float = 0.002):
        if max_queue < 1 or max_batch < 1 or not 0 <= window <= 10:
            raise ValueError(
                f"queue of {max_queue}, batches of {max_batch}, window of {window} s: expected at least 1, 1, and 0 to 10 s"
            )
        self.max_queue, self.max_batch, self.window = max_queue, max_batch, window
        self._waiting: dict[Hashable, Work] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, work: Work) -> bool:
        """Queues a work, unless the queue is full."""
        # A single image always fits.
        if self._waiting and (len(self._waiting) >= self.max_queue or self._bytes + work.size > QUEUE_BYTES):
            return False
        self._waiting[work.key] = work
        self._bytes += work.size
        return True

    def decoded(self, key: Hashable, pixels: np.ndarray, now: float) -> None:
        """Makes a work one that can be gathered; nothing where it has left meanwhile."""
        if (work := self._waiting.get(key)) is not None:
            work.pixels, work.ready = pixels, now

    def take(self, key: Hashable) -> Work | None:
        """Takes a work out, none where it does not wait here."""
        work = self._waiting.pop(key, None)
        if work is not None:
            self._bytes -= work.size
        return work

    def take_all(self) -> list[Work]:
        return [self.take(key) for key in list(self._waiting)]

    def take_expired(self, now: float) -> list[Work]:
        """Takes out the works whose deadline has passed: they are not started."""
        return [self.take(key) for key, work in list(self._waiting.items()) if work.deadline <= now]

    def take_batch(self, now: float) -> list[Work]:
        """Takes out the batch that is due: of the kind with the oldest work, among those that are full or waited long enough."""
        kinds: dict[tuple, list[Work]] = {}
        for work in self._waiting.values():
            if work.pixels is not None and work.deadline > now:
                kinds.setdefault(work.kind, []).append(work)
        for works in kinds.values():
            pixels = works[0].request.width * works[0].request.height
            most = min(self.max_batch, max(1, BATCH_PIXELS // pixels))
            if len(works) >= most or now >= min(work.ready for work in works) + self.window:
                return [self.take(work.key) for work in works[:most]]
        return []

    def next_change(self, now: float) -> float:
        """Seconds until a window or a deadline ends; infinity where none does."""
        ends = [work.deadline for work in self._waiting.values()]
        ends += [work.ready + self.window for work in self._waiting.values() if work.pixels is not None]
        return max(0.0, min(ends, default=float("inf")) - now)
