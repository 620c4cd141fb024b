# SPDX-License-Identifier: GPL-3.0-or-later
"""Where batches are computed: the interface between the server, which communicates, and the refiners, which compute.

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
    """One image to refine: uint8 (H, W, 3), and the parameters that may differ from image to image."""

    pixels: np.ndarray
    snr_db: float | None
    seed: int
    prompt: str | None


@dataclass(frozen=True)
class Batch:
    """Images of one size, refined together.

    number    identifies the batch to the server
    previews  indices of the items whose intermediate images are reported
    """

    number: int
    refiner: str
    steps: int | None
    sampler: str | None
    items: tuple[Item, ...]
    previews: tuple[int, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why an image was not refined: an error code of the protocol, and one line."""

    code: str
    message: str

    def __post_init__(self):
        if self.code not in CODES:
            raise ValueError(f"code '{self.code}' is not one of the protocol's: {', '.join(CODES)}")


#: What became of an item: its refined pixels, uint8 (H, W, 3), or why there are none.
Outcome = np.ndarray | Failure


@dataclass(frozen=True)
class Stepped:
    """``step`` of ``steps`` is done for a batch.

    previews  intermediate pixels by index of the item
    items     indices of the items that have done this step; None: all
    """

    number: int
    step: int
    steps: int
    previews: dict[int, np.ndarray]
    items: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Done:
    """A batch is finished: the outcome of each item, in order, and the seconds that it took."""

    number: int
    outcomes: tuple[Outcome, ...]
    seconds: float


#: What a backend reports to the server.
Event = Stepped | Done


class Backend(Protocol):
    """What the server needs of a backend. For each batch submitted, `Done` is reported exactly once, whatever happens."""

    @property
    def refiners(self) -> tuple[str, ...]:
        """Names that a request may give."""

    @property
    def slots(self) -> int:
        """Batches that it takes at the same time; may change while it runs."""

    def start(self, report: Callable[[Event], None]) -> None:
        """Returns when the backend is ready; raises ValueError where it cannot be."""

    def submit(self, batch: Batch) -> None:
        """Takes a batch without waiting. Called only while fewer than ``slots`` batches are out."""

    def stop(self, number: int) -> None:
        """Nobody waits for this batch any more: it may end early, and still reports `Done`."""

    def memory(self) -> dict[str, float]:
        """Bytes of GPU memory in use, by device; empty without a GPU."""

    def close(self, timeout: float) -> None:
        """Ends its threads and processes within ``timeout`` seconds."""


class Stopped(Exception):
    """Raised by `OnStep`, through the refiner, where nobody waits for the batch any more."""


class OnStep(Protocol):
    """Called after each step, with the fields of `Stepped`. May raise `Stopped`."""

    def __call__(self, step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None: ...


class RefinementEngine(Protocol):
    """What computes batches: `engine.Engine`, or a stub in tests. It is used from one thread only."""

    @property
    def refiners(self) -> tuple[str, ...]:
        """Names that a batch may give."""

    def prepare(self) -> None:
        """Loads what the first request would otherwise wait for."""

    def run(self, batch: Batch, on_step: OnStep) -> Sequence[np.ndarray]:
        """Refined pixels of each item."""

    def memory(self) -> dict[str, float]:
        """As in `Backend`."""


class LocalBackend:
    """One engine in one thread of this process, one batch at a time."""

    slots = 1

    def __init__(self, engine: RefinementEngine):
        self._engine = engine
        self.refiners = engine.refiners
        self._batches: queue.Queue[Batch | None] = queue.Queue(maxsize=self.slots + 1)
        self._stopped: set[int] = set()
        self._ready: queue.Queue[Exception | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-refine")

    def start(self, report: Callable[[Event], None], timeout: float = 600.0) -> None:
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
        # Prepared in this thread, because torch's number of threads is set per thread.
        try:
            self._engine.prepare()
        except Exception as error:
            self._ready.put(error)
            return
        self._ready.put(None)
        while (batch := self._batches.get()) is not None:
            self._report(refine(self._engine, batch, self._report, self._stopped))
            self._stopped.discard(batch.number)


def refine(engine: RefinementEngine, batch: Batch, report: Callable[[Stepped], None], stopped: set[int]) -> Done:
    """Computes a batch. One that fails is computed again image by image, so that a bad request fails alone."""
    start = time.monotonic()

    def on_step(step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None:
        if batch.number in stopped:
            raise Stopped
        report(Stepped(batch.number, step, steps, previews, items))

    outcomes: tuple[Outcome, ...]
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
