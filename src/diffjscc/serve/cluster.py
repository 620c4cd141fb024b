# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches computed by a pool of Ray actors, on this machine or on those of a cluster. Ray is imported on first use.

server ── submit ──► queue ──► supervisor 1 ── run ──► Worker 1 (an actor: a process with an engine, on any machine)
                        └────► supervisor 2 ── run ──► Worker 2

The pool has a fixed number of slots, each with a worker and a supervisor: a thread of the server's process that starts the
worker, gives it one batch at a time, and replaces it when it dies. Only supervisors wait for Ray, never the server's thread.

Whoever can reach a Ray cluster can run programs on it: keep it in a private network, or use Ray's tokens.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import one_line
from ..ray_cluster import LOCAL, import_ray
from .allocator import M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, SETTINGS
from .backend import Batch, Beat, Broken, Done, Event, RefinementEngine, Stepped, refine
from .protocol import Refusal

logger = logging.getLogger(__name__)

#: Attempts at a batch whose worker dies: the first one, and one more on another worker.
ATTEMPTS = 2

#: Seconds between a supervisor's checks whether its batch was cancelled or the backend is being closed.
TICK = 0.1

#: Back-off before a worker that died without having finished a batch is replaced, s: first and longest; doubled in between.
BACK_OFF_SECONDS = (1.0, 60.0)

#: Seconds between signs of life of a worker, and seconds without one after which it is given up. A machine that is cut off from
#: the network neither answers nor fails.
BEAT, SILENCE = 2.0, 20.0

#: Seconds between checks whether the cluster is still there, and seconds that a check may take.
CHECK, CHECK_TIMEOUT = 2.0, 30.0

#: Calls that a worker answers at the same time: `run`, `next_events` and `stop`.
CALLS = 3

#: The settings of `allocator.keep_pages` as environment variables: Ray's processes have threads before our code runs in them.
MALLOC = {
    "MALLOC_ARENA_MAX": str(SETTINGS[M_ARENA_MAX]),
    "MALLOC_MMAP_THRESHOLD_": str(SETTINGS[M_MMAP_THRESHOLD]),
    "MALLOC_TRIM_THRESHOLD_": str(SETTINGS[M_TRIM_THRESHOLD]),
}


class RayBackend:
    """A `Backend` that distributes batches over Ray actors, each with an engine of its own.

    make     makes an engine; called in each worker, and once here, for the names of its refiners
    count    workers; None: as many as the cluster has GPUs, or as it has room for with ``threads`` CPUs each
    device   "cuda": one GPU per worker, chosen by Ray; "cpu"
    threads  CPUs, and threads, of a worker; None: 1
    address  "local": Ray on this machine, started and ended here; "auto": the cluster that this machine belongs to;
             "ray://host:10001": another cluster

    A batch whose worker dies is given to another worker, once; then its images fail with "lost".
    Raises ValueError for impossible values or where ``make`` does, and MissingExtra where Ray is not installed.
    """

    def __init__(
        self,
        make: Callable[[], RefinementEngine],
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
        self._ray = import_ray(address, "a pool of workers")
        self._make, self._count, self._address = make, count, address
        self.refiners = make().refiners
        self._needs = {"CPU": threads or 1} | ({"GPU": 1} if device == "cuda" else {})
        self._batches: queue.Queue[tuple[Batch, int]] = queue.Queue()
        self._stopped: set[int] = set()
        self._memory: dict[int, dict[str, float]] = {}
        self._loaded: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._out: set[int] = set()
        self._supervisors: list[threading.Thread] = []
        self._ready: queue.Queue[Exception | None] = queue.Queue()
        self._closing, self._ended = threading.Event(), threading.Event()
        self._connection: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._keeper = threading.Thread(target=self._keep_connection, daemon=True, name="diffjscc-cluster")
        self._lock = threading.Lock()
        self.slots = 0

    def start(self, report: Callable[[Event], None], timeout: float = 600.0) -> None:
        """Returns when every worker has loaded its first refiner; raises ValueError as soon as one of them fails to."""
        self._report = report
        self._keeper.start()
        error = self._connection.get()
        if error is not None:
            raise error
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
        for slot in range(1, count + 1):
            supervisor = threading.Thread(target=self._supervise, args=(slot,), daemon=True, name=f"diffjscc-worker-{slot}")
            self._supervisors.append(supervisor)
            supervisor.start()
        deadline = time.monotonic() + timeout
        for _ in range(count):
            try:
                error = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ValueError(f"{self.slots} of {count} workers were ready within {timeout:.0f} s") from None
            if error is not None:
                raise ValueError(f"a worker could not get ready: {_reason(error)}") from None

    def largest(self) -> float:
        return math.inf if len(self._out) < self.slots else 0

    def loaded(self) -> dict[str, tuple[str, ...]]:
        """As of each worker's last batch."""
        with self._lock:
            return dict(self._loaded.values())

    def submit(self, batch: Batch) -> None:
        self._out.add(batch.number)
        self._batches.put((batch, 1))

    def stop(self, number: int) -> None:
        self._stopped.add(number)

    def memory(self) -> dict[str, float]:
        """As of each worker's last batch."""
        with self._lock:
            return {device: used for devices in self._memory.values() for device, used in devices.items()}

    def close(self, timeout: float) -> None:
        """Ends the workers, and Ray where it was started here, which may take a second or two more than ``timeout``."""
        self._closing.set()
        deadline = time.monotonic() + timeout
        for supervisor in self._supervisors:
            supervisor.join(max(0.0, deadline - time.monotonic()))
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()

    def _room(self) -> int:
        """Workers that the machines of the cluster have room for, if nothing else uses them."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(int(min(machine.get(kind, 0) // number for kind, number in self._needs.items())) for machine in machines)

    # In a thread of its own, which lives as long as the connection: the kernel ends Ray's processes together with the thread that
    # started them.

    def _keep_connection(self) -> None:
        """Connects to Ray, unless this process is connected already; reports `Broken` once the cluster is gone; disconnects."""
        own = not self._ray.is_initialized()
        try:
            if own:
                self._connect()
        except ValueError as error:
            self._connection.put(error)
            return
        self._connection.put(None)
        try:
            while not self._ended.wait(CHECK):
                reason = None if self._closing.is_set() else self._failure()
                if reason is not None and not self._closing.is_set():
                    self._report(Broken(f"the Ray cluster is lost: {reason}"))
                    self._ended.wait()
        finally:
            if own:
                self._ray.shutdown()

    def _connect(self) -> None:
        options = {"include_dashboard": False} if self._address == LOCAL else {}
        try:
            self._ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:
            what = "cannot start Ray" if self._address == LOCAL else f"cannot reach a Ray cluster at {self._address}"
            raise ValueError(f"{what}: {one_line(error)}") from None

    def _failure(self) -> str | None:
        """Why the cluster cannot be used any more; None where it can."""
        answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def check() -> None:
            try:
                answers.put(self._dead_part())
            except Exception as error:
                answers.put(_reason(error))

        # In another thread, because Ray may wait forever for a cluster that is gone.
        threading.Thread(target=check, daemon=True, name="diffjscc-cluster-check").start()
        try:
            return answers.get(timeout=CHECK_TIMEOUT)
        except queue.Empty:
            return f"it has not answered for {CHECK_TIMEOUT:.0f} s"

    def _dead_part(self) -> str | None:
        """What this process needs of the cluster and has ended; None where all of it is there. Raises where Ray does."""
        if not self._ray.is_initialized():
            return "this process is disconnected from it"
        node = getattr(self._ray._private.worker, "_global_node", None)
        dead = [] if node is None else [kind for kind, _ in node.dead_processes()]
        if dead:
            return f"its process {dead[0]} has ended"
        here = self._ray.get_runtime_context().get_node_id()
        alive = [machine["NodeID"] for machine in self._ray.nodes() if machine["Alive"]]
        return None if here in alive else "it has given up this machine"

    # In a supervisor's thread.

    def _supervise(self, slot: int) -> None:
        """Keeps a worker running in this slot until the backend is closed."""
        back_off, was_ready = 0.0, False
        while not self._closing.wait(back_off):
            worker = None
            try:
                start = time.monotonic()
                worker = WorkerHandle(self._ray, self._actors, self._make, self._closing)
                host, process = worker.prepare()
                logger.info("worker %d on %s (process %d) ready in %.1f s", slot, host, process, time.monotonic() - start)
                with self._available(slot):
                    if not was_ready:
                        self._ready.put(None)
                        was_ready = True
                    self._compute_batches(slot, worker)
            except Closed:
                return
            except Exception as error:
                if not was_ready:
                    self._ready.put(error)
                    return
                # A worker that has finished batches is replaced at once; one that only dies is not.
                useful = worker is not None and worker.finished
                back_off = 0.0 if useful else min(max(2 * back_off, BACK_OFF_SECONDS[0]), BACK_OFF_SECONDS[1])
                logger.warning("worker %d is lost, another comes in %.0f s: %s", slot, back_off, _reason(error))
            finally:
                if worker is not None:
                    worker.kill()

    @contextmanager
    def _available(self, slot: int) -> Iterator[None]:
        """Within the block, the worker in this slot can take batches."""
        with self._lock:
            self.slots += 1
        try:
            yield
        finally:
            with self._lock:
                self.slots -= 1
                self._memory.pop(slot, None)
                self._loaded.pop(slot, None)

    def _compute_batches(self, slot: int, worker: WorkerHandle) -> None:
        """Gives batches to a worker until it dies or the backend is closed, which raises Ray's error or `Closed`."""
        while True:
            self._note_memory(slot, worker)
            try:
                batch, attempt = self._batches.get(timeout=TICK)
            except queue.Empty:
                worker.check()
                continue
            if batch.number in self._stopped:
                self._finish(Done(batch.number, (Refusal("cancelled", "cancelled"),) * len(batch.items), 0.0))
                continue
            try:
                worker.check()
            except Exception:
                # The worker died before it got this batch.
                self._batches.put((batch, attempt))
                raise
            try:
                done = worker.compute(batch, self._report, self._stopped)
            except Closed:
                raise
            except Exception:
                self._retry_or_fail(batch, attempt)
                raise
            self._finish(done)

    def _retry_or_fail(self, batch: Batch, attempt: int) -> None:
        if attempt < ATTEMPTS:
            self._batches.put((batch, attempt + 1))
        else:
            refusal = Refusal("lost", f"{ATTEMPTS} workers in a row were lost while they computed this")
            self._finish(Done(batch.number, (refusal,) * len(batch.items), 0.0))

    def _finish(self, done: Done) -> None:
        self._stopped.discard(done.number)
        self._out.discard(done.number)
        self._report(done)

    def _note_memory(self, slot: int, worker: WorkerHandle) -> None:
        with self._lock:
            name = f"worker {slot} on {worker.host}"
            self._memory[slot] = {f"{name}, {device}": used for device, used in worker.memory.items()}
            self._loaded[slot] = name, worker.loaded


class Closed(Exception):
    """Raised in a supervisor when the backend is closed."""


class WorkerHandle:
    """A worker as seen by its supervisor. Calls take as long as the worker takes; they raise Ray's error where it has died.

    memory    bytes of GPU memory in use by device, on the worker's machine, after its latest batch
    loaded    refiners that it has in memory
    finished  whether it has finished a batch
    """

    def __init__(self, ray: Any, actors: Any, make: Callable[[], RefinementEngine], closing: threading.Event):
        self._ray, self._closing = ray, closing
        self._actor = actors.remote(make)
        # One such call is always pending: it returns progress during a batch, and an error when the worker dies.
        self._events = self._call("next_events")
        self.host, self.finished = "", False
        self.memory: dict[str, float] = {}
        self.loaded: tuple[str, ...] = ()
        # Whether it has given a sign of life, and seconds that were spent waiting for the next one.
        self._alive, self._waited = False, 0.0

    def prepare(self) -> tuple[str, int]:
        """Waits until the worker is ready; returns its machine and process."""
        answer = self._call("prepare")
        while answer not in self._wait([answer]):
            self.check()
        self.host, process, self.memory, self.loaded = self._ray.get(answer)
        return self.host, process

    def compute(self, batch: Batch, report: Callable[[Event], None], stopped: set[int]) -> Done:
        """Has a batch computed; returns after all of its progress has been reported."""
        answer, reported, stopping = self._call("run", batch), 0, False
        done: Done | None = None
        events = 0
        while done is None or reported < events:
            ready = self._wait([self._events] if done else [answer, self._events])
            if self._events in ready:
                for event in self._next_events():
                    report(event)
                    reported += 1
            elif answer in ready:
                done, events, self.memory, self.loaded = self._ray.get(answer)
            self._check_silence()
            if batch.number in stopped and not stopping:
                self._call("stop", batch.number)
                stopping = True
        self.finished = True
        # Copied out of Ray's shared memory, which is limited and disappears when Ray is shut down.
        return replace(done, outcomes=tuple(np.array(x) if isinstance(x, np.ndarray) else x for x in done.outcomes))

    def check(self) -> None:
        """Raises where the worker has died, or is silent."""
        if self._wait([self._events], 0.0):
            self._next_events()
        self._check_silence()

    def _next_events(self) -> list[Stepped | Beat]:
        events = self._ray.get(self._events)
        self._alive, self._waited = True, 0.0
        self._events = self._call("next_events")
        return [_copied(event) if isinstance(event, Stepped) else event for event in events]

    def _check_silence(self) -> None:
        if self._alive and self._waited > SILENCE:
            raise TimeoutError(f"worker on {self.host} has been silent for {SILENCE:.0f} s")

    def kill(self) -> None:
        with suppress(Exception):
            self._ray.kill(self._actor)

    def _call(self, method: str, *arguments: object) -> Any:
        return getattr(self._actor, method).remote(*arguments)

    def _wait(self, answers: list, seconds: float = TICK) -> list:
        """The first of ``answers`` that is ready; empty where none is in time."""
        if self._closing.is_set():
            raise Closed
        start = time.monotonic()
        ready = self._ray.wait(answers, num_returns=1, timeout=seconds)[0]
        # Where this process itself was held up, the worker may have been heard meanwhile.
        self._waited += min(2 * TICK, time.monotonic() - start)
        return ready


class Worker:
    """An engine in a Ray actor, which answers each call in any of its threads."""

    def __init__(self, make: Callable[[], RefinementEngine]):
        self._make = make
        # Instead of Ray's concurrency groups, which clients of ray:// cannot use.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffjscc-refine")
        self._stopped: set[int] = set()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def prepare(self) -> tuple[str, int, dict[str, float], tuple[str, ...]]:
        """Loads the first refiner; returns (host, process id, memory, refiners in memory)."""
        self._engine = self._make()
        self._thread.submit(self._engine.prepare).result()
        return socket.gethostname(), os.getpid(), self._engine.memory(), self._engine.loaded

    def run(self, batch: Batch) -> tuple[Done, int, dict[str, float], tuple[str, ...]]:
        """Computes a batch; returns (done, number of its events, memory, refiners in memory)."""
        # An engine may report from several threads.
        steps = itertools.count()

        def report(event: Event) -> None:
            next(steps)
            self._events.put(event)

        done = self._thread.submit(refine, self._engine, batch, report, self._stopped).result()
        self._stopped.clear()
        return done, next(steps), self._engine.memory(), self._engine.loaded

    def stop(self, number: int) -> None:
        """Ends a batch at its next step."""
        self._stopped.add(number)

    def next_events(self) -> list[Event]:
        """Waits for the next event; returns all since the last call, or none after `BEAT` seconds, as a sign of life."""
        events: list[Event] = []
        with suppress(queue.Empty):
            events.append(self._events.get(timeout=BEAT))
            while True:
                events.append(self._events.get_nowait())
        return events


def _copied(event: Stepped) -> Stepped:
    """With previews outside of Ray's shared memory."""
    return replace(event, previews={index: np.array(pixels) for index, pixels in event.previews.items()})


def _reason(error: Exception) -> str:
    """One line: the worker's own error, where it could report it, else Ray's."""
    return one_line(getattr(error, "cause", None) or error)
