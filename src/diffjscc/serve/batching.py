# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests are computed together, and when. Pure logic: the caller supplies the time."""

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
class Task:
    """A request on its way through the server. Times are those of the caller's clock, s.

    key       (client, request id): a key is computed once, however often it is requested
    digest    of the request's content: tells a retry from another request under the same id
    peer      the connection to reply to: the last one that sent this request
    pixels    uint8 (H, W, 3), set once the image is decoded; only then can the task join a batch
    ready     when the image was decoded
    reported  when progress was last sent, and step: of which step
    """

    key: Hashable
    digest: bytes
    request: Request
    peer: bytes
    arrived: float
    deadline: float
    pixels: np.ndarray | None = None
    ready: float = 0.0
    reported: float = -1.0
    step: int = 0

    @property
    def kind(self) -> tuple:
        """Requests of one kind can be computed in one batch."""
        r = self.request
        return r.refiner, r.steps, r.sampler, r.width, r.height, r.prompt is None

    @property
    def size(self) -> int:
        """Bytes of pixels."""
        return self.request.width * self.request.height * CHANNELS


class Batcher:
    """A bounded queue of tasks that hands them out in batches of one kind, oldest first.

    max_queue  tasks that may wait; another one is refused
    max_batch  tasks of a batch
    window     seconds that a task waits for others of its kind: the latency that batching may cost
    """

    def __init__(self, max_queue: int = 64, max_batch: int = 8, window: float = 0.002):
        if max_queue < 1 or max_batch < 1 or not 0 <= window <= 10:
            raise ValueError(
                f"queue of {max_queue}, batches of {max_batch}, window of {window} s: expected at least 1, 1, and 0 to 10 s"
            )
        self.max_queue, self.max_batch, self.window = max_queue, max_batch, window
        self._waiting: dict[Hashable, Task] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, task: Task) -> bool:
        """Queues a task; False where the queue is full."""
        # A single image always fits.
        if self._waiting and (len(self._waiting) >= self.max_queue or self._bytes + task.size > QUEUE_BYTES):
            return False
        self._waiting[task.key] = task
        self._bytes += task.size
        return True

    def decoded(self, key: Hashable, pixels: np.ndarray, now: float) -> None:
        """Sets the pixels of a task, which can join a batch from now on. Ignored where the task has left the queue."""
        if (task := self._waiting.get(key)) is not None:
            task.pixels, task.ready = pixels, now

    def take(self, key: Hashable) -> Task | None:
        """Removes and returns a task; None where it is not in the queue."""
        task = self._waiting.pop(key, None)
        if task is not None:
            self._bytes -= task.size
        return task

    def take_all(self) -> list[Task]:
        return self._take(list(self._waiting.values()))

    def take_expired(self, now: float) -> list[Task]:
        """Removes and returns the tasks whose deadline has passed: they are not started."""
        return self._take([task for task in self._waiting.values() if task.deadline <= now])

    def take_batch(self, now: float) -> list[Task]:
        """Removes and returns the next batch, empty where none is due.

        A kind is due when it fills a batch or its oldest task has waited for the window; of those due, the kind with the
        oldest task comes first.
        """
        kinds: dict[tuple, list[Task]] = {}
        for task in self._waiting.values():
            if task.pixels is not None and task.deadline > now:
                kinds.setdefault(task.kind, []).append(task)
        for tasks in kinds.values():
            pixels = tasks[0].request.width * tasks[0].request.height
            most = min(self.max_batch, max(1, BATCH_PIXELS // pixels))
            if len(tasks) >= most or now >= min(task.ready for task in tasks) + self.window:
                return self._take(tasks[:most])
        return []

    def next_change(self, now: float) -> float:
        """Seconds until the next window or deadline ends; infinity where none does."""
        ends = [task.deadline for task in self._waiting.values()]
        ends += [task.ready + self.window for task in self._waiting.values() if task.pixels is not None]
        return max(0.0, min(ends, default=float("inf")) - now)

    def _take(self, tasks: list[Task]) -> list[Task]:
        for task in tasks:
            self.take(task.key)
        return tasks
