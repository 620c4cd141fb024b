# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches computed by a pool of Ray actors, on this machine or on those of a cluster. Ray is imported when one is made.

server ── submit ──► queue ──► keeper 1 ── run ──► Worker 1 (an actor: a process with an engine, anywhere)
                        └────► keeper 2 ── run ──► Worker 2

Each worker has a keeper: a thread of the server's process that hires it, hands it a batch at a time, and replaces it when it dies.
Only keepers wait for Ray, the server's thread never does.

Whoever can reach a Ray cluster can run programs on it: it belongs in a network of its own, or behind Ray's tokens.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np

from ..errors import one_line
from .allocator import M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, SETTINGS
from .backend import Batch, Done, Failure, Refines, Stepped, refine

logger = logging.getLogger(__name__)

#: Workers that compute a batch before it is given up: the first one, and one more should that die.
ATTEMPTS = 2

#: Seconds between two looks at what cannot wake a keeper: that nobody waits for its batch, that the server stops.
TICK = 0.1

#: Seconds before a worker is replaced that died without finishing a batch: at first, and at most. Doubled in between.
REPLACE_SECONDS = (1.0, 60.0)

#: Calls that a worker has to answer at once: a batch, what is new of it, and that it is to stop.
CALLS = 3

#: What `allocator.keep_pages` sets, for processes that have threads before anything of ours runs in them.
MALLOC = {
    "MALLOC_ARENA_MAX": str(SETTINGS[M_ARENA_MAX]),
    "MALLOC_MMAP_THRESHOLD_": str(SETTINGS[M_MMAP_THRESHOLD]),
    "MALLOC_TRIM_THRESHOLD_": str(SETTINGS[M_TRIM_THRESHOLD]),
}

#: Address that stands for a Ray of this server's own, which ends with it.
LOCAL = "local"


class RayBackend:
    """A `Backend` that spreads batches over Ray actors, each with an engine of its own.

    make     makes an engine; called in each worker, and once here, for the names of its refiners
    count    workers; none: as many as the cluster has GPUs, or CPUs for ``threads`` each
    device   "cuda": a GPU a worker, which Ray chooses; "cpu"
    threads  CPUs of a worker, which its libraries use for as many threads; none: 1
    address  "local": Ray on this machine, started and ended here; "auto": the cluster that this machine belongs to;
             "ray://host:10001": another

    A batch whose worker dies is given to another, once; then its images fail as "lost".
    Raises ValueError where Ray is not installed, or where ``make`` does.
    """

    def __init__(
        self,
        make: Callable[[], Refines],
        count: int | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        address: str = LOCAL,
    ):
        if count is not None and count < 1 or threads is not None and threads < 1:
            raise ValueError(f"{count} workers of {threads} threads: expected at least 1 of each")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"device '{device}' does not say what a worker needs: choose cpu, or cuda for a GPU that Ray chooses")
        self._ray = _import_ray(address)
        self._make, self._count, self._address = make, count, address
        self.refiners = make().refiners
        self._needs = {"CPU": threads or 1} | ({"GPU": 1} if device == "cuda" else {})
        self._batches: queue.Queue[tuple[Batch, int]] = queue.Queue()
        self._stopped: set[int] = set()
        self._memory: dict[int, dict[str, float]] = {}
        self._keepers: list[threading.Thread] = []
        self._ready: queue.Queue[Exception | None] = queue.Queue()
        self._closing = threading.Event()
        self._connected = False
        self._lock = threading.Lock()
        self.slots = 0

    def start(self, report: Callable[[Stepped | Done], None], timeout: float = 600.0) -> None:
        """Returns once every worker has its first refiner; raises ValueError as soon as one cannot."""
        self._report = report
        self._connect()
        room = self._room()
        count = room if self._count is None else self._count
        if not 0 < count <= room:
            each = " and ".join(f"{number} {kind}" for kind, number in self._needs.items())
            raise ValueError(
                f"workers of {each} each: the Ray cluster has room for {room}, {max(count, 1)} asked for: "
                "ask for fewer workers or threads, or add machines first"
            )
        environment = {"env_vars": MALLOC | {"OMP_NUM_THREADS": str(self._needs["CPU"])}}
        self._actors = self._ray.remote(
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs.get("GPU", 0),
            max_restarts=0,
            max_concurrency=CALLS,
            runtime_env=environment,
        )(Worker)
        for place in range(1, count + 1):
            keeper = threading.Thread(target=self._keep, args=(place,), daemon=True, name=f"diffjscc-worker-{place}")
            self._keepers.append(keeper)
            keeper.start()
        deadline = time.monotonic() + timeout
        for _ in range(count):
            try:
                error = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ValueError(f"{self.slots} of {count} workers were ready within {timeout:.0f} s") from None
            if error is not None:
                raise ValueError(f"a worker could not get ready: {_reason(error)}") from None

    def submit(self, batch: Batch) -> None:
        self._batches.put((batch, 1))

    def stop(self, number: int) -> None:
        self._stopped.add(number)

    def memory(self) -> dict[str, float]:
        """As of each worker's last batch."""
        with self._lock:
            return {device: used for devices in self._memory.values() for device, used in devices.items()}

    def close(self, timeout: float) -> None:
        """Ends the workers; and Ray where it was started here, which may take a second or two more."""
        self._closing.set()
        deadline = time.monotonic() + timeout
        for keeper in self._keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        if self._connected:
            self._connected = False
            self._ray.shutdown()

    def _connect(self) -> None:
        """Connects to Ray, unless the program that this is part of has done so."""
        if self._ray.is_initialized():
            return
        options = {}
        if self._address == LOCAL:
            options["include_dashboard"] = False
        try:
            with _own_signals():
                self._ray.init(self._address, log_to_driver=False, logging_level=logging.WARNING, **options)
        except Exception as error:
            what = "cannot start Ray" if self._address == LOCAL else f"cannot reach a Ray cluster at {self._address}"
            raise ValueError(f"{what}: {one_line(error)}") from None
        self._connected = True

    def _room(self) -> int:
        """Workers that the machines of the cluster have room for, were they used for nothing else."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(int(min(machine.get(kind, 0) // number for kind, number in self._needs.items())) for machine in machines)

    # In a keeper's thread.

    def _keep(self, place: int) -> None:
        """Sees to it that there is a worker in this place until the backend is closed."""
        pause, joined = 0.0, False
        while not self._closing.wait(pause):
            worker = None
            try:
                start = time.monotonic()
                worker = Hired(self._ray, self._actors, self._make, self._closing)
                host, process = worker.prepare()
                logger.info("worker %d on %s (process %d) ready in %.1f s", place, host, process, time.monotonic() - start)
                with self._at_work(place):
                    if not joined:
                        self._ready.put(None)
                        joined = True
                    self._work(place, worker)
            except Closed:
                return
            except Exception as error:
                if not joined:
                    self._ready.put(error)
                    return
                # One that does its work and dies once is replaced at once; one that does nothing but die is not.
                useful = worker is not None and worker.finished
                pause = 0.0 if useful else min(max(2 * pause, REPLACE_SECONDS[0]), REPLACE_SECONDS[1])
                logger.warning("worker %d is lost, another comes in %.0f s: %s", place, pause, _reason(error))
            finally:
                if worker is not None:
                    worker.dismiss()

    @contextmanager
    def _at_work(self, place: int):
        """While a batch may be handed to the worker in this place."""
        with self._lock:
            self.slots += 1
        try:
            yield
        finally:
            with self._lock:
                self.slots -= 1
                self._memory.pop(place, None)

    def _work(self, place: int, worker: Hired) -> None:
        """Hands batches to a worker until it dies, or the backend is closed: either is raised."""
        while True:
            self._remember(place, worker)
            try:
                batch, attempt = self._batches.get(timeout=TICK)
            except queue.Empty:
                worker.check()
                continue
            if batch.number in self._stopped:
                self._finish(Done(batch.number, (Failure("cancelled", "cancelled"),) * len(batch.items), 0.0))
                continue
            try:
                worker.check()
            except Exception:
                # It died before it could have got this.
                self._batches.put((batch, attempt))
                raise
            try:
                done = worker.compute(batch, self._report, self._stopped)
            except Closed:
                raise
            except Exception:
                self._lost(batch, attempt)
                raise
            self._finish(done)

    def _lost(self, batch: Batch, attempt: int) -> None:
        if attempt < ATTEMPTS:
            self._batches.put((batch, attempt + 1))
        else:
            failure = Failure("lost", f"{ATTEMPTS} workers in a row were lost while they computed this")
            self._finish(Done(batch.number, (failure,) * len(batch.items), 0.0))

    def _finish(self, done: Done) -> None:
        self._stopped.discard(done.number)
        self._report(done)

    def _remember(self, place: int, worker: Hired) -> None:
        with self._lock:
            self._memory[place] = {f"worker {place} on {worker.host}, {name}": used for name, used in worker.memory.items()}


class Closed(Exception):
    """Raised in a keeper that need not wait any longer: the backend is closed."""


class Hired:
    """A worker as its keeper sees it. What it does takes as long as it takes; it raises Ray's error where the worker is lost.

    memory    bytes of GPU memory in use by device, on the worker's machine, at its last batch
    finished  whether it has ever finished a batch
    """

    def __init__(self, ray, actors, make: Callable[[], Refines], closing: threading.Event):
        self._ray, self._closing = ray, closing
        self._actor = actors.remote(make)
        # Always one such call is out: it brings progress during a batch, and an error when the worker dies.
        self._news = self._call("news")
        self.host, self.memory, self.finished = "", {}, False

    def prepare(self) -> tuple[str, int]:
        """Waits for it to be ready; its machine and process."""
        answer = self._call("prepare")
        while answer not in self._wait([answer, self._news]):
            self.check()
        self.host, process, self.memory = self._ray.get(answer)
        return self.host, process

    def compute(self, batch: Batch, report: Callable[[Stepped], None], stopped: set[int]) -> Done:
        """Has a batch computed; returns after all of its progress is reported."""
        answer, told, stopping = self._call("run", batch), 0, False
        done, steps = None, 0
        while done is None or told < steps:
            ready = self._wait([self._news] if done else [answer, self._news])
            if self._news in ready:
                for event in self._ray.get(self._news):
                    report(replace(event, previews={index: np.array(pixels) for index, pixels in event.previews.items()}))
                    told += 1
                self._news = self._call("news")
            elif answer in ready:
                done, steps, self.memory = self._ray.get(answer)
            if batch.number in stopped and not stopping:
                self._call("stop", batch.number)
                stopping = True
        self.finished = True
        # What Ray hands out lies in its shared memory, which is bounded, and gone once it is shut down.
        return replace(done, outcomes=tuple(np.array(x) if isinstance(x, np.ndarray) else x for x in done.outcomes))

    def check(self) -> None:
        """Raises where it has died, as far as is known."""
        if self._wait([self._news], 0.0):
            self._ray.get(self._news)

    def dismiss(self) -> None:
        with suppress(Exception):
            self._ray.kill(self._actor)

    def _call(self, method: str, *arguments):
        return getattr(self._actor, method).remote(*arguments)

    def _wait(self, answers: list, seconds: float = TICK) -> list:
        """The first answer that is there; none in time."""
        if self._closing.is_set():
            raise Closed
        return self._ray.wait(answers, num_returns=1, timeout=seconds)[0]


class Worker:
    """An engine in a Ray actor, which answers each call in any of its threads."""

    def __init__(self, make: Callable[[], Refines]):
        self._make = make
        # Ray's concurrency groups would do, but a client of ray:// cannot name them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffjscc-refine")
        self._stopped: set[int] = set()
        self._news: queue.SimpleQueue[Stepped] = queue.SimpleQueue()

    def prepare(self) -> tuple[str, int, dict[str, float]]:
        """Loads the first refiner; (host, process, memory)."""
        self._engine = self._make()
        self._thread.submit(self._engine.prepare).result()
        return socket.gethostname(), os.getpid(), self._engine.memory()

    def run(self, batch: Batch) -> tuple[Done, int, dict[str, float]]:
        """Computes a batch; (done, how much news there was of it, memory)."""
        # An engine may report from several threads.
        steps = itertools.count()

        def report(event: Stepped) -> None:
            next(steps)
            self._news.put(event)

        done = self._thread.submit(refine, self._engine, batch, report, self._stopped).result()
        self._stopped.clear()
        return done, next(steps), self._engine.memory()

    def stop(self, number: int) -> None:
        """Ends a batch at its next step."""
        self._stopped.add(number)

    def news(self) -> list[Stepped]:
        """What has happened since the last call, once something has."""
        events = [self._news.get()]
        with suppress(queue.Empty):
            while True:
                events.append(self._news.get_nowait())
        return events


def _import_ray(address: str):
    # Ray reads these when it is imported. It is not to tell its makers how it is used, and errors of actors are handled here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == LOCAL:
        # It listens on every interface. A token that only its own processes know keeps others out.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed, which spreads work over workers: pip install 'diffjscc[cluster]'") from None
    return ray


@contextmanager
def _own_signals():
    """Keeps the signal handlers of this process: Ray's would end it without draining."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _reason(error: Exception) -> str:
    """One line; of what went wrong in the worker, where it could still say so."""
    error = getattr(error, "cause", None) or error
    return one_line(error)
