# SPDX-License-Identifier: GPL-3.0-or-later
"""Where batches are computed: the interface between the server, which communicates, and the refiners, which compute.

server ── submit(batch), stop(number) ──► backend
server ◄── report(event) ──────────────── backend, from any of its threads
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import one_line
from .batching import TILED_PIXELS
from .protocol import Refusal

logger = logging.getLogger(__name__)

#: Seconds between two signs of life of a batch that is refined in tiles.
BEAT_SECONDS = 1.0


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

    @property
    def is_tiled(self) -> bool:
        """Whether it is refined in tiles, between which it can be stopped and others can be computed."""
        return bool(self.items) and math.prod(self.items[0].pixels.shape[:2]) > TILED_PIXELS


#: What became of an item: its refined pixels, uint8 (H, W, 3), or why there are none.
Outcome = np.ndarray | Refusal


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
class Beat:
    """A batch is being computed: a sign of life between its steps."""

    number: int


@dataclass(frozen=True)
class Done:
    """A batch is finished: the outcome of each item, in order, and the seconds that it took."""

    number: int
    outcomes: tuple[Outcome, ...]
    seconds: float


@dataclass(frozen=True)
class Broken:
    """The backend will compute nothing any more: the reason, one line. Batches that are out are lost."""

    reason: str


#: What a backend reports to the server.
Event = Stepped | Beat | Done | Broken


class Backend(Protocol):
    """What the server needs of a backend. For each batch submitted, `Done` is reported exactly once, unless it is `Broken`."""

    @property
    def refiners(self) -> tuple[str, ...]:
        """Names that a request may give."""

    @property
    def slots(self) -> int:
        """Workers that can compute a batch now; may change while it runs."""

    def largest(self) -> float:
        """Pixels of the largest image of a batch that it takes now; 0 where it takes none."""

    def loaded(self) -> dict[str, tuple[str, ...]]:
        """Refiners that are in memory, by worker."""

    def start(self, report: Callable[[Event], None]) -> None:
        """Returns when the backend is ready; raises ValueError where it cannot be. `close` may be called meanwhile."""

    def submit(self, batch: Batch) -> None:
        """Takes a batch without waiting. Called only with images of at most `largest` pixels."""

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

    @property
    def loaded(self) -> tuple[str, ...]:
        """Refiners that are in memory."""

    def prepare(self) -> None:
        """Loads what the first request would otherwise wait for."""

    def run(self, batch: Batch, on_step: OnStep, pause: Callable[[], None]) -> Sequence[np.ndarray]:
        """Refined pixels of each item. Between tiles it calls ``pause``, which may raise `Stopped`, or run another batch."""

    def memory(self) -> dict[str, float]:
        """As in `Backend`."""


class LocalBackend:
    """One engine in one thread of this process. While it refines an image in tiles, smaller batches are computed in between."""

    slots = 1

    def __init__(self, engine: RefinementEngine):
        self._engine = engine
        self.refiners = engine.refiners
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._out: dict[int, Batch] = {}
        self._stopped: set[int] = set()
        self._ready: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
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

    def largest(self) -> float:
        out = list(self._out.values())
        if not out:
            return math.inf
        return TILED_PIXELS if len(out) == 1 and out[0].is_tiled else 0

    def loaded(self) -> dict[str, tuple[str, ...]]:
        return {"local": self._engine.loaded}

    def submit(self, batch: Batch) -> None:
        self._out[batch.number] = batch
        self._batches.put(batch)

    def stop(self, number: int) -> None:
        self._stopped.add(number)

    def memory(self) -> dict[str, float]:
        return self._engine.memory()

    def close(self, timeout: float) -> None:
        self._stopped.update(self._out)
        self._batches.put(None)
        # A network that is still running cannot be interrupted; the thread is a daemon.
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        # Prepared in this thread, because torch's number of threads is set per thread.
        try:
            self._engine.prepare()
        except Exception as error:
            self._ready.put(error)
            return
        self._ready.put(None)
        try:
            while (batch := self._batches.get()) is not None:
                self._compute(batch, self._pass if batch.is_tiled else lambda: None)
        except BaseException as error:
            self._report(Broken(f"the thread that refines has ended: {one_line(error)}"))
            raise

    def _compute(self, batch: Batch, between: Callable[[], None]) -> None:
        done = refine(self._engine, batch, self._report, self._stopped, between)
        self._stopped.discard(batch.number)
        # From now on there is room for another one, which the server takes note of when it gets the event.
        del self._out[batch.number]
        self._report(done)

    def _pass(self) -> None:
        """Between two tiles: computes the small batches that have come meanwhile."""
        while not self._batches.empty():
            batch = self._batches.get()
            if batch is None or batch.refiner not in self._engine.loaded:
                # Loading a refiner could unload the one that is at work.
                self._batches.put(batch)
                return
            self._compute(batch, lambda: None)


def refine(
    engine: RefinementEngine,
    batch: Batch,
    report: Callable[[Event], None],
    stopped: set[int],
    between: Callable[[], None] = lambda: None,
) -> Done:
    """Computes a batch. One that fails is computed again image by image, so that a bad request fails alone.

    between  called between tiles
    """
    start = beat = time.monotonic()

    def on_step(step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None:
        if batch.number in stopped:
            raise Stopped
        report(Stepped(batch.number, step, steps, previews, items))

    def pause() -> None:
        nonlocal beat
        if batch.number in stopped:
            raise Stopped
        if time.monotonic() - beat >= BEAT_SECONDS:
            beat = time.monotonic()
            report(Beat(batch.number))
        between()

    outcomes: tuple[Outcome, ...]
    try:
        outcomes = tuple(engine.run(batch, on_step, pause))
    except Stopped:
        outcomes = (Refusal("cancelled", "cancelled"),) * len(batch.items)
    except Exception as error:
        if len(batch.items) > 1:
            parts = [Batch(batch.number, batch.refiner, batch.steps, batch.sampler, (item,)) for item in batch.items]
            outcomes = tuple(refine(engine, part, report, stopped, between).outcomes[0] for part in parts)
        else:
            logger.warning("refining failed: %s: %s", type(error).__name__, one_line(error))
            outcomes = (Refusal("failed", one_line(error)),)
    return Done(batch.number, outcomes, time.monotonic() - start)
