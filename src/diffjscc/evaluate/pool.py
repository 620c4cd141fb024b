# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers side by side: processes of this machine, or actors of a Ray cluster. Either may die at any moment.

units ──► one thread a slot ── begin, run ──► Worker (a process, or an actor on any machine)
                └── Outcome ──► Pool.run, which yields them in the caller's thread
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from ..errors import one_line
from .plan import Cell
from .worker import Done, Worker, WorkerSettings

#: Attempts at a cell whose worker dies.
ATTEMPTS = 2

#: Workers in a row that may die before any of them is ready.
STARTS = 3

#: Seconds that a worker has to end by itself.
END_SECONDS = 5.0

#: Environment of workers: libraries that start threads of their own read these when they are imported.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class WorkerDied(Exception):
    """The worker's process ended while it computed. The message says how."""


class CellFailed(Exception):
    """The system raised an error, or the measures did. The message is one line."""


@dataclass
class Unit:
    """Cells of one image that one worker computes in turn, so that what they have in common is computed once."""

    image: int
    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Of a cell: what was computed, or in one line why nothing was."""

    cell: Cell
    done: Done | None
    failure: str = ""


class Slot(Protocol):
    """A place for one worker at a time. Methods are called by one thread, but for `kill`."""

    def start(self) -> None:
        """Starts a worker. Raises ValueError where it cannot be made, WorkerDied where it dies."""

    def begin(self, pixels: np.ndarray) -> None:
        """`Worker.begin`. Raises WorkerDied."""

    def run(self, cell: Cell, budget: int, show: bool) -> Done:
        """`Worker.run`. Raises WorkerDied, or CellFailed."""

    def stop(self) -> None:
        """Ends the worker, which is idle or dead."""

    def kill(self) -> None:
        """Ends the worker at once; what waits for it raises WorkerDied."""


class Pool:
    """Computes units on every slot.

    read    image index → pixels, uint8 RGB (H, W, 3)
    budget  cell → its channel uses
    show    cell → whether its image is kept for the report

    A cell whose worker dies is tried once more, by a new worker.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        read: Callable[[int], np.ndarray],
        budget: Callable[[Cell], int],
        show: Callable[[Cell], bool],
    ):
        self._slots, self._read, self._budget, self._show = slots, read, budget, show
        self._units: collections.deque[Unit] = collections.deque()
        self._outcomes: queue.Queue[Outcome | Exception | None] = queue.Queue()
        self._stopping = threading.Event()

    def run(self, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Outcomes as they come. Raises ValueError where workers cannot be started. Closing the iterator ends all workers."""
        self._units.extend(units)
        count = min(len(self._slots), len(units))
        threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots[:count]]
        for thread in threads:
            thread.start()
        running = count
        try:
            while running:
                outcome = self._outcomes.get()
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    yield outcome
        finally:
            self._stopping.set()
            for slot in self._slots[:count]:
                slot.kill()
            for thread in threads:
                thread.join(END_SECONDS)

    # In the thread of a slot.

    def _serve(self, slot: Slot) -> None:
        try:
            self._start(slot)
            while not self._stopping.is_set():
                try:
                    unit = self._units.popleft()
                except IndexError:
                    break
                self._compute(slot, unit)
            if not self._stopping.is_set():
                slot.stop()
        except Exception as error:
            if not self._stopping.is_set():
                self._outcomes.put(error)
        finally:
            self._outcomes.put(None)

    def _start(self, slot: Slot) -> None:
        for attempt in range(STARTS):
            try:
                slot.start()
                return
            except WorkerDied as error:
                if attempt == STARTS - 1 or self._stopping.is_set():
                    raise ValueError(f"no worker lives long enough to begin: {one_line(error)}") from None

    def _compute(self, slot: Slot, unit: Unit) -> None:
        pixels = self._read(unit.image)
        fresh = True
        for cell in unit.cells:
            for attempt in range(ATTEMPTS):
                if self._stopping.is_set():
                    return
                try:
                    if fresh:
                        slot.begin(pixels)
                        fresh = False
                    self._outcomes.put(Outcome(cell, slot.run(cell, self._budget(cell), self._show(cell))))
                    break
                except CellFailed as error:
                    self._outcomes.put(Outcome(cell, None, one_line(error)))
                    break
                except WorkerDied as error:
                    if self._stopping.is_set():
                        return
                    fresh = True
                    slot.stop()
                    self._start(slot)
                    if attempt == ATTEMPTS - 1:
                        self._outcomes.put(Outcome(cell, None, f"its worker died {ATTEMPTS} times ({one_line(error)})"))


class ProcessSlot:
    """A `Slot` with a process of this machine."""

    def __init__(self, settings: WorkerSettings):
        self._settings = settings
        self._process: multiprocessing.process.BaseProcess | None = None
        self._lock = threading.Lock()
        self._killed = False

    def start(self) -> None:
        # Workers are forked off a process that has imported torch and has no threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([Worker.__module__])
        # One process at a time is started: its environment is this process's.
        with _STARTING, self._lock:
            if self._killed:
                raise WorkerDied("stopped")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._settings), daemon=True)
            before = {name: os.environ.get(name) for name in ONE_THREAD}
            os.environ.update(ONE_THREAD)
            try:
                self._process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
            theirs.close()
        self._answer(ValueError)

    def begin(self, pixels: np.ndarray) -> None:
        self._ask("begin", pixels)

    def run(self, cell: Cell, budget: int, show: bool) -> Done:
        return self._ask("run", cell, budget, show)

    def stop(self) -> None:
        self._connection.close()
        if self._process is not None:
            self._process.join(END_SECONDS)
            self._process.kill()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def _ask(self, *question: Any) -> Any:
        try:
            self._connection.send(question)
        except OSError:
            raise WorkerDied(self._how()) from None
        return self._answer(CellFailed)

    def _answer(self, error: type[Exception]) -> Any:
        try:
            ok, answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._how()) from None
        if not ok:
            raise error(answer)
        return answer

    def _how(self) -> str:
        assert self._process is not None
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"


_STARTING = threading.Lock()


def _serve(connection: Connection, settings: WorkerSettings) -> None:
    """A worker's process: answers (True, result) or (False, one line) to each question."""
    # Ctrl-C reaches every process of the terminal: the parent decides what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(ONE_THREAD)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        try:
            worker = Worker(settings)
            connection.send((True, None))
        except Exception as error:
            connection.send((False, one_line(error)))
            return
        while True:
            method, *arguments = connection.recv()
            try:
                answer = True, getattr(worker, method)(*arguments)
            # Whatever a system raises belongs to its cell.
            except Exception as error:
                answer = False, one_line(error)
            connection.send(answer)


def _end_with_parent() -> None:
    """Ends this process at once when its parent was killed, so that it does not compete with the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
