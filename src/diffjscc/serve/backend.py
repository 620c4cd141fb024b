# SPDX-License-Identifier: GPL-3.0-or-later
"""Where batches are computed: the seam between the server, which talks, and whatever holds the refiners.

server ── submit(batch), stop(number) ──► backend
server ◄── report(Stepped | Done) ─────── backend, from any of its threads
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import one_line
from .protocol import CODES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One image to refine: uint8 (H, W, 3), and what differs from image to image."""

    pixels: np.ndarray
    snr_db: float | None
    seed: int
    prompt: str | None


@dataclass(frozen=True)
class Batch:
    """Images of one size, refined together. ``number`` is the server's name for it; ``previews``: items to show on the way."""

    number: int
    refiner: str
    steps: int | None
    sampler: str | None
    items: tuple[Item, ...]
    previews: tuple[int, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why an image was not refined: a code of the protocol, and one line."""

    code: str
    message: str

    def __post_init__(self):
        if self.code not in CODES:
            raise ValueError(f"code '{self.code}' is not one of the protocol's: {', '.join(CODES)}")


@dataclass(frozen=True)
class Stepped:
    """A batch has done ``step`` of ``steps``; previews: pixels by index of the item; items: of which it is true, none: of all."""

    number: int
    step: int
    steps: int
    previews: dict[int, np.ndarray]
    items: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Done:
    """A batch is over: for each item, in order, its refined pixels or why there are none. ``seconds``: what it took."""

    number: int
    outcomes: tuple[np.ndarray | Failure, ...]
    seconds: float


class Backend(Protocol):
    """What the server asks of one. Each batch that is submitted is reported Done exactly once, whatever happens to it."""

    #: Names that a request may give.
    refiners: tuple[str, ...]
    #: Batches that it takes at once; may change while it runs.
    slots: int

    def start(self, report: Callable[[Stepped | Done], None]) -> None:
        """Gets ready, and says so by returning; raises ValueError where it cannot."""

    def submit(self, batch: Batch) -> None:
        """Takes a batch; never waits. Called with at most ``slots`` batches out."""

    def stop(self, number: int) -> None:
        """Nobody waits for this batch any more: it may end early, all the same reporting Done."""

    def memory(self) -> dict[str, float]:
        """Bytes of GPU memory in use, by device; empty without a GPU."""

    def close(self, timeout: float) -> None:
        """Ends its threads and processes within ``timeout`` seconds."""


class Stopped(Exception):
    """Raised through a refiner whose batch nobody waits for any more."""


class OnStep(Protocol):
    """Told of each step, as in `Stepped`. May raise `Stopped`."""

    def __call__(self, step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None: ...


class Refines(Protocol):
    """What computes: `engine.Engine`, or in tests something that is quick. Only ever called from one thread."""

    refiners: tuple[str, ...]

    def prepare(self) -> None:
        """Loads what is to be loaded before the first request."""

    def run(self, batch: Batch, on_step: OnStep) -> Sequence[np.ndarray]:
        """Refined pixels of each item."""

    def memory(self) -> dict[str, float]:
        """As in `Backend`."""


class LocalBackend:
    """One engine in one thread of this process: a batch at a time."""

    slots = 1

    def __init__(self, engine: Refines):
        self._engine = engine
        self.refiners = engine.refiners
        self._batches: queue.Queue[Batch | None] = queue.Queue(maxsize=self.slots + 1)
        self._stopped: set[int] = set()
        self._ready: queue.Queue[Exception | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-refine")

    def start(self, report: Callable[[Stepped | Done], None], timeout: float = 600.0) -> None:
        self._report = report
        self._thread.start()
        try:
            error = self._ready.get(timeout=timeout)
        except queue.Empty:
            raise ValueError(f"refiners did not load within {timeout:.0f} s") from None
        if error is not None:
            raise error

    def submit(self, batch: Batch) -> None:
        self._batches.put_nowait(batch)

    def stop(self, number: int) -> None:
        self._stopped.add(number)

    def memory(self) -> dict[str, float]:
        return self._engine.memory()

    def close(self, timeout: float) -> None:
        self._batches.put_nowait(None)
        # A network that is still running cannot be interrupted; the thread is a daemon.
        self._thread.join(timeout)

    def _run(self) -> None:
        # In this thread, because torch's number of threads is a thread's own.
        try:
            self._engine.prepare()
        except Exception as error:
            self._ready.put(error)
            return
        self._ready.put(None)
        while (batch := self._batches.get()) is not None:
            self._report(refine(self._engine, batch, self._report, self._stopped))
            self._stopped.discard(batch.number)


def refine(engine: Refines, batch: Batch, report: Callable[[Stepped], None], stopped: set[int]) -> Done:
    """One batch through an engine. A batch that fails is tried image by image: a bad request costs only itself."""
    start = time.monotonic()

    def on_step(step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None:
        if batch.number in stopped:
            raise Stopped
        report(Stepped(batch.number, step, steps, previews, items))

    try:
        outcomes = tuple(engine.run(batch, on_step))
    except Stopped:
        outcomes = (Failure("cancelled", "cancelled"),) * len(batch.items)
    except Exception as error:
        if len(batch.items) > 1:
            parts = [Batch(batch.number, batch.refiner, batch.steps, batch.sampler, (item,)) for item in batch.items]
            outcomes = tuple(refine(engine, part, report, stopped).outcomes[0] for part in parts)
        else:
            logger.warning("refining failed: %s: %s", type(error).__name__, one_line(error))
            outcomes = (Failure("failed", one_line(error)),)
    return Done(batch.number, outcomes, time.monotonic() - start)
