# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests are admitted, decoded and computed next, fairly between clients. Pure logic: the caller supplies the time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np

from .work import State, Work

#: Pixels of a batch, unless a single image has more: what a GPU of 8 GB, or a patient CPU, takes at once.
BATCH_PIXELS = 1 << 23

#: Bytes of pixels that may wait, decoded or not, whatever the number of images.
QUEUE_BYTES = 1 << 30

#: Bytes of pixels that are decoded ahead of their batches; the other images wait as files.
DECODED_BYTES = 1 << 28

#: A larger image is refined in tiles, and alone, so that smaller ones can be computed between its tiles. The refiners' own
#: bound (refine.pipeline.WHOLE_PIXELS) is the same; it is not imported because it needs torch.
TILED_PIXELS = 2 << 20


class Turns:
    """Round robin: whoever was served longest ago comes first; newcomers before all others."""

    def __init__(self) -> None:
        self._served: dict[Hashable, int] = {}
        self._count = 0

    def sorted(self, shares: Iterable[Hashable]) -> list[Hashable]:
        return sorted(shares, key=lambda share: self._served.get(share, 0))

    def served(self, share: Hashable) -> None:
        self._count += 1
        self._served[share] = self._count

    def forget_all_but(self, shares: Iterable[Hashable]) -> None:
        """Forgets clients that have nothing in the queue, once there are many."""
        if len(self._served) > 1000:
            self._served = {share: self._served[share] for share in shares if share in self._served}


class Batcher:
    """A bounded queue with a share for each client, which hands work out in batches of one kind.

    Clients take turns: in each round every client that waits is served once, whatever others have queued. Within a share the
    oldest item comes first. A batch is filled up with items of the same kind of all clients.

    max_queue  items that may wait. When it is full, a client that has less than an equal share of it takes the place of the
               newest item of the client that has the most
    max_batch  items of a batch
    window     seconds that an item waits for others of its kind: the latency that batching may cost
    """

    def __init__(self, max_queue: int = 64, max_batch: int = 8, window: float = 0.002):
        if max_queue < 1 or max_batch < 1 or not 0 <= window <= 10:
            raise ValueError(
                f"queue of {max_queue}, batches of {max_batch}, window of {window} s: expected at least 1, 1, and 0 to 10 s"
            )
        self.max_queue, self.max_batch, self.window = max_queue, max_batch, window
        self._shares: dict[Hashable, dict[Hashable, Work]] = {}
        self._waiting: dict[Hashable, Work] = {}
        self._bytes: dict[Hashable, int] = {}
        self._to_compute, self._to_decode = Turns(), Turns()
        # Items whose image is not decoded, and a time before which no deadline passes: most turns of the server find nothing here.
        self._encoded: set[Hashable] = set()
        self._earliest = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Bytes of pixels of all that waits, decoded or not."""
        return sum(list(self._bytes.values()))

    def waiting_of(self, share: Hashable) -> int:
        """Items of a client that wait."""
        return len(self._shares.get(share, ()))

    def admit(self, work: Work) -> list[Work] | None:
        """Queues an item. Returns the items of other clients that had to leave for it, mostly none; None where it has no room."""
        leaving = self._make_room(work)
        if leaving is None:
            return None
        for other in leaving:
            self.take(other.key)
        share = work.client.share
        self._waiting[work.key] = work
        self._shares.setdefault(share, {})[work.key] = work
        self._bytes[share] = self._bytes.get(share, 0) + work.size
        self._encoded.add(work.key)
        self._earliest = min(self._earliest, work.deadline)
        work.state = State.QUEUED
        return leaving

    def _make_room(self, work: Work) -> list[Work] | None:
        # A single image always fits.
        if not self._waiting:
            return []
        count, size = len(self._waiting), self.bytes
        fits = count < self.max_queue and size + work.size <= QUEUE_BYTES
        if fits:
            return []
        share = work.client.share
        clients = len(self._shares.keys() | {share})
        if len(self._waiting) >= self.max_queue:
            if self.waiting_of(share) + 1 > max(1, self.max_queue // clients):
                return None
            largest = max(self._shares, key=lambda other: len(self._shares[other]))
        else:
            # A client with nothing in the queue may always have one image in it.
            if self.waiting_of(share) and self._bytes[share] + work.size > QUEUE_BYTES // clients:
                return None
            largest = max(self._bytes, key=lambda other: self._bytes[other])
        if largest == share:
            return None
        leaving: list[Work] = []
        for other in reversed(self._shares[largest].values()):
            leaving.append(other)
            count, size = count - 1, size - other.size
            if count < self.max_queue and (size + work.size <= QUEUE_BYTES or not count):
                return leaving
        return None

    def decoded(self, key: Hashable, pixels: np.ndarray, now: float) -> None:
        """Sets the pixels of an item, which can join a batch from now on. Ignored where the item has left the queue."""
        if (work := self._waiting.get(key)) is not None:
            work.pixels, work.ready, work.state = pixels, now, State.QUEUED
            self._encoded.discard(key)

    def next_to_decode(self, largest: int) -> Work | None:
        """The next item whose image, of at most ``largest`` bytes of pixels, is to be decoded. Clients take turns in this too."""
        if not self._encoded:
            return None
        ahead = sum(work.size for work in self._waiting.values() if work.pixels is not None or work.state is State.DECODING)
        if ahead >= DECODED_BYTES:
            return None
        for share in self._to_decode.sorted(self._shares):
            for work in self._shares[share].values():
                if work.pixels is None and work.state is State.QUEUED and work.size <= largest:
                    work.state = State.DECODING
                    self._to_decode.served(share)
                    return work
        return None

    def take(self, key: Hashable) -> Work | None:
        """Removes and returns an item; None where it is not in the queue."""
        work = self._waiting.pop(key, None)
        if work is not None:
            share = work.client.share
            del self._shares[share][key]
            self._encoded.discard(key)
            self._bytes[share] -= work.size
            if not self._shares[share]:
                del self._shares[share], self._bytes[share]
        return work

    def take_all(self) -> list[Work]:
        return self._take(list(self._waiting.values()))

    def take_expired(self, now: float) -> list[Work]:
        """Removes and returns the items whose deadline has passed: they are not started."""
        if now < self._earliest:
            return []
        expired = self._take([work for work in self._waiting.values() if work.deadline <= now])
        self._earliest = min((work.deadline for work in self._waiting.values()), default=math.inf)
        return expired

    def postpone(self, work: Work, deadline: float) -> None:
        """Gives an item another deadline, whether or not it is in the queue."""
        work.deadline = deadline
        self._earliest = min(self._earliest, deadline)

    def take_batch(self, now: float, largest: int | None = None) -> list[Work]:
        """Removes and returns the next batch, empty where none is due; ``largest``: pixels of its images at most.

        A kind is due when it fills a batch or its oldest item has waited for the window. The batch has the kind of the first
        item that is due of the client whose turn it is, or of the next client.
        """
        kinds: dict[tuple, list[Work]] = {}
        for work in self._waiting.values():
            pixels = work.request.width * work.request.height
            if work.pixels is not None and work.deadline > now and (largest is None or pixels <= largest):
                kinds.setdefault(work.kind, []).append(work)
        due = {kind: works for kind, works in kinds.items() if self._is_due(works, now)}
        if not due:
            return []
        if len(self._shares) == 1:
            works = next(iter(due.values()))
            return self._take(works[: self._most(works[0])])
        order = self._to_compute.sorted(self._shares)
        for share in order:
            first = next((work for work in self._shares[share].values() if work.kind in due and work.pixels is not None), None)
            if first is not None:
                return self._fill(due[first.kind], order)
        return []

    def _is_due(self, works: list[Work], now: float) -> bool:
        return len(works) >= self._most(works[0]) or now >= min(work.ready for work in works) + self.window

    def _most(self, work: Work) -> int:
        pixels = work.request.width * work.request.height
        return 1 if pixels > TILED_PIXELS else min(self.max_batch, max(1, BATCH_PIXELS // pixels))

    def _fill(self, works: list[Work], order: list[Hashable]) -> list[Work]:
        """A batch out of ``works``, one of each client in turn until it is full."""
        queues: dict[Hashable, list[Work]] = {}
        for work in works:
            queues.setdefault(work.client.share, []).append(work)
        batch: list[Work] = []
        most, turn = self._most(works[0]), 0
        while len(batch) < most:
            found = [queues[share][turn] for share in order if len(queues.get(share, ())) > turn]
            if not found:
                break
            batch += found[: most - len(batch)]
            turn += 1
        for share in dict.fromkeys(work.client.share for work in batch):
            self._to_compute.served(share)
        self._to_compute.forget_all_but(self._shares)
        self._to_decode.forget_all_but(self._shares)
        return self._take(batch)

    def next_change(self, now: float) -> float:
        """Seconds until the next window or deadline ends; infinity where none does."""
        ends = [work.deadline for work in self._waiting.values()]
        ends += [work.ready + self.window for work in self._waiting.values() if work.pixels is not None]
        return max(0.0, min(ends, default=float("inf")) - now)

    def _take(self, works: list[Work]) -> list[Work]:
        for work in works:
            self.take(work.key)
        return works
