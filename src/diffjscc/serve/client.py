# SPDX-License-Identifier: GPL-3.0-or-later
"""The client: sends images to a server and receives them refined. It retries through failures of server and network.

client.py      the calls, and the thread that moves messages between the two below
jobs.py        when each request is sent, sent again, or given up
connection.py  the socket
callbacks.py   the caller's functions, in a thread of their own
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import images, keys
from .addresses import DEFAULT, check_port
from .callbacks import Callbacks
from .connection import Change, Connection
from .event_queue import EventQueue
from .jobs import Jobs
from .protocol import ENCODINGS, Cancel, Error, Ping, Pong, Progress, Refusal, Request, Result, decode

logger = logging.getLogger(__name__)

#: Seconds that callbacks may still take when a client is closed, and the client's own thread.
CALLBACK_SECONDS, CLOSE_SECONDS = 1.0, 5.0

#: Seconds between attempts after an error that nobody foresaw.
TROUBLE_SECONDS = 0.5

#: Called as (step, steps, preview or None).
OnProgress = Callable[[int, int, np.ndarray | None], object]


class RefineError(Exception):
    """An image was not refined: the error code of the protocol, one line, and whether the same request may succeed later."""

    def __init__(self, code: str, message: str, retryable: bool):
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


class RefineTimeout(RefineError):
    """The deadline passed without an answer."""

    def __init__(self, message: str):
        super().__init__("deadline", message, True)


class Job(Future[np.ndarray]):
    """A submitted image: a future of its refined pixels, uint8 (H, W, 3), or of a `RefineError`. ``id`` is the request's.

    It is done by its deadline, whatever happens. Until it is done ``cancel()`` works, and cancels it on the server too.
    Its callbacks run in the client's thread for callbacks.
    """

    def __init__(self, request: Request, on_progress: OnProgress | None, callbacks: Callbacks):
        super().__init__()
        self.id = request.id
        self._request, self._on_progress, self._callbacks = request, on_progress, callbacks
        self._submitted = time.monotonic()

    def add_done_callback(self, fn: Callable[[Future[np.ndarray]], object]) -> None:
        """As of any future, but ``fn`` is called in the client's thread for callbacks."""
        # Without a reference to the job, which would keep its image until the garbage collector comes.
        callbacks = self._callbacks
        super().add_done_callback(lambda job: callbacks.submit(partial(fn, job)))


class RefineClient:
    """A connection to a refinement service, maintained by a thread of its own. Any thread may call its methods. No torch is needed.

    address          of the server, such as tcp://gpu.local:5555
    server_key       file with the server's public key, and secret_key: file with this client's key pair; both or neither
    max_outstanding  jobs that may be unfinished; another one is refused
    on_outage        called with one line when the server becomes unreachable while a job is unfinished; again only after it
                     was reachable. None: logged as a warning

    When the server cannot be reached, restarts, is busy or stops, the client tries again with exponential back-off until the
    job's deadline. A request that is sent again is computed only once, because its id is an idempotency key.

    All callbacks run one after the other in a thread of their own: one that takes long, or raises, delays other callbacks only.

    Example:
        with RefineClient("tcp://127.0.0.1:5555") as client:
            refined = client.refine(pixels, snr_db=1.0)
    """

    def __init__(
        self,
        address: str = DEFAULT,
        server_key: str | os.PathLike | None = None,
        secret_key: str | os.PathLike | None = None,
        max_outstanding: int = 64,
        on_outage: Callable[[str], object] | None = None,
    ):
        curve: tuple[bytes, bytes, bytes] | None = None
        if server_key is not None and secret_key is not None:
            curve = (keys.load_public(server_key), *keys.load_pair(secret_key))
        elif server_key is not None or secret_key is not None:
            raise ValueError("server_key and secret_key go together: give both files, or neither")
        if max_outstanding < 1:
            raise ValueError(f"max_outstanding = {max_outstanding}: must be at least 1")
        check_port(address)
        self.address, self._max_outstanding = address, max_outstanding
        self._connection = Connection(address, curve)
        self._callbacks = Callbacks()
        self._on_outage: Callable[[str], object] = on_outage or logger.warning
        # Of unfinished jobs, by id; any thread. `_jobs` holds their state, and belongs to the client's thread.
        self._futures: dict[str, Job] = {}
        self._jobs = Jobs()
        # Of jobs that wait for the end of their callbacks: (deadline, outcome).
        self._outcomes: dict[str, tuple[float, np.ndarray | RefineError]] = {}
        # Pings without an answer: (deadline, future).
        self._pings: list[tuple[float, Future[Pong]]] = []
        self._lock = threading.Lock()
        self._closing = False
        self._events: EventQueue[Job | Ping | None] = EventQueue()
        # An outage is reported once, until the connection is up again.
        self._outage_reported = False
        self._instance: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-client")
        self._thread.start()

    def submit(
        self,
        pixels: np.ndarray,
        snr_db: float | None = None,
        refiner: str = "mini",
        *,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        prompt: str | None = None,
        deadline: float = 60.0,
        encoding: str = "png",
        on_progress: OnProgress | None = None,
        preview: bool = False,
    ) -> Job:
        """Submits an image, uint8 (H, W, 3), and returns without waiting. The caller's thread encodes the image.

        deadline     seconds after which the job is done, refined or not
        encoding     of the image sent and the image received: "png"; "raw" on a fast network; "jpeg" where loss is tolerable
        on_progress  called as (step, steps, None or, with ``preview``, the intermediate image); steps may be skipped. The job is
                     done after these calls, but by its deadline even where they take longer

        The other parameters are those of `DiffJSCCPipeline`. Raises ValueError for bad input, and RefineError with the code
        "busy" where too many jobs are outstanding, or "closed" after `close`.
        """
        images.check_pixels(pixels)
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding '{encoding}': choose from {', '.join(ENCODINGS)}")
        if not (isinstance(deadline, (int, float)) and 0 < deadline < math.inf):
            raise ValueError(f"deadline = {deadline}: must be a number of seconds above 0")
        height, width = pixels.shape[:2]
        image = images.to_bytes(pixels, encoding)
        request = Request(
            id=uuid.uuid4().hex,
            refiner=refiner,
            width=width,
            height=height,
            encoding=encoding,
            reply_encoding=encoding,
            steps=None if steps is None else int(steps),
            sampler=sampler,
            seed=int(seed),
            snr_db=None if snr_db is None else float(snr_db),
            prompt=prompt,
            deadline=deadline,
            progress=on_progress is not None,
            preview=preview and on_progress is not None,
            # A copy, because the caller may change its array afterwards.
            image=bytes(image),
        )
        job = Job(request, on_progress, self._callbacks)
        with self._lock:
            if self._closing:
                raise RefineError("closed", "the client is closed: make a new one", False)
            outstanding = sum(not other.done() for other in self._futures.values())
            if outstanding >= self._max_outstanding:
                raise RefineError("busy", f"{outstanding} jobs are outstanding: wait for one, or raise max_outstanding", True)
            self._futures[job.id] = job
        # Tells the client's thread when the job is cancelled. Not a callback of the caller's.
        Future.add_done_callback(job, self._note_done)
        self._events.put(job)
        return job

    def _note_done(self, job: Future[np.ndarray]) -> None:
        if isinstance(job, Job):
            self._events.put(job)

    def refine(self, pixels: np.ndarray, snr_db: float | None = None, refiner: str = "mini", **options: Any) -> np.ndarray:
        """`submit`, then waits for the refined pixels. Raises RefineError, and RefineTimeout after the deadline."""
        job = self.submit(pixels, snr_db, refiner, **options)
        try:
            return job.result()
        except BaseException:
            job.cancel()
            raise

    async def arefine(self, pixels: np.ndarray, snr_db: float | None = None, refiner: str = "mini", **options: Any) -> np.ndarray:
        """`refine` for asyncio; cancelling the task cancels the job."""
        # In a thread, because encoding a large image would block the event loop.
        job = await asyncio.to_thread(self.submit, pixels, snr_db, refiner, **options)
        return await asyncio.wrap_future(job)

    def ping(self, timeout: float = 5.0) -> Pong:
        """The server's version, refiners and load. Raises RefineTimeout where it does not answer within ``timeout`` seconds."""
        pong: Future[Pong] = Future()
        with self._lock:
            if self._closing:
                raise RefineError("closed", "the client is closed: make a new one", False)
            self._pings.append((time.monotonic() + timeout, pong))
        self._events.put(Ping())
        return pong.result()

    @property
    def connected(self) -> bool:
        """Whether the connection to the server is up, as far as is known."""
        return self._connection.is_up

    @property
    def away(self) -> float:
        """Seconds since the connection was lost, or since the client was made; 0 while it is up."""
        since = self._connection.away_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Ends the threads; unfinished jobs fail with RefineError "closed"."""
        with self._lock:
            self._closing = True
        self._events.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_SECONDS)
        self._callbacks.close(CALLBACK_SECONDS)

    def __enter__(self) -> RefineClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The rest runs in the client's thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._wait()
                    self._turn()
                except Exception as error:
                    # Jobs end by their deadlines whatever happens to the connection.
                    logger.exception("the client goes on after an error")
                    self._connection.fail(f"{self.address}: {type(error).__name__}")
                    self._time_out(time.monotonic())
                    time.sleep(TROUBLE_SECONDS)
        finally:
            with self._lock:
                self._closing = True
                futures, self._futures = list(self._futures.values()), {}
                pings, self._pings = self._pings, []
            for job in futures:
                _set(job, RefineError("closed", "the client was closed", False))
            for _, pong in pings:
                pong.set_exception(RefineError("closed", "the client was closed", False))
            self._connection.close()
            self._events.close()

    def _wait(self) -> None:
        """Waits for the next event, message or change of the connection, or until something is to be done."""
        now = time.monotonic()
        seconds = min(60.0, self._jobs.next_change(now))
        ends = [deadline for deadline, _ in (*list(self._pings), *self._outcomes.values())]
        seconds = min([seconds, *(end - now for end in ends)])
        if self.connected and (self._jobs or self._pings):
            seconds = min(seconds, self._connection.pulse.next_ping() - now)
        # A request that is due, and was not sent, waits for room in the socket's queue.
        blocked = self.connected and bool(self._jobs.due(now))
        self._connection.wait(self._events.fileno(), blocked, seconds)

    def _turn(self) -> None:
        now = time.monotonic()
        for change in self._connection.changes():
            if change is Change.UP:
                self._note_up(now)
        for event in self._events.take():
            if isinstance(event, Job):
                self._take(event, now)
            elif isinstance(event, Ping):
                # Sent at once instead of at the next interval.
                self._connection.pulse.ping_now()
        if self._connection.has_failed:
            self._note_outage()
        while (frames := self._connection.receive()) is not None:
            self._receive(frames, time.monotonic())
        now = time.monotonic()
        self._time_out(now)
        if self.connected:
            self._send_due(now)
            self._keep_alive(now)
        self._connection.reopen_if_due(now)

    def _take(self, job: Job, now: float) -> None:
        """A job is new, or done: finished here, or cancelled by the caller."""
        if not job.done():
            if job.id not in self._jobs and job.id not in self._outcomes:
                self._jobs.add(job._request, job._submitted)
            return
        with self._lock:
            known = self._futures.pop(job.id, None) is not None
        self._outcomes.pop(job.id, None)
        pending = self._jobs.remove(job.id)
        if job.cancelled() and known:
            with suppress(InvalidStateError, RuntimeError):
                job.set_running_or_notify_cancel()
            if pending is not None and pending.is_with_server:
                self._connection.send(Cancel(id=job.id), now)

    def _note_up(self, now: float) -> None:
        self._jobs.send_all_again(now)
        if self._outage_reported:
            logger.info("%s is reachable again", self.address)
        self._outage_reported = False

    def _note_outage(self) -> None:
        if not self._outage_reported and self._jobs:
            self._outage_reported = True
            line = f"{self._connection.trouble}: trying again until deadlines pass"
            self._callbacks.submit(partial(self._on_outage, line))

    def _send_due(self, now: float) -> None:
        for pending in self._jobs.due(now):
            request = replace(pending.request, deadline=max(0.0, pending.deadline - now))
            if not self._connection.send(request, now):
                return
            self._jobs.sent(pending)

    def _keep_alive(self, now: float) -> None:
        connection = self._connection
        if not self._jobs and not self._pings:
            # What nobody waits for is no sign of silence.
            connection.pulse.heard()
            return
        if connection.is_silent(now, self._jobs.bytes_with_server()):
            connection.fail(f"{self.address} has been silent for {connection.pulse.silent_for(now):.0f} s")
            self._note_outage()
        elif now >= connection.pulse.next_ping() and connection.send(Ping(), now):
            connection.pulse.pinged(now)

    def _receive(self, frames: list[memoryview], now: float) -> None:
        try:
            message = decode(frames)
        except Refusal as refusal:
            logger.warning("%s sent a message that this client does not understand: %s", self.address, refusal.message)
            ids = list(self._futures) if refusal.code == "version" else [refusal.id]
            for id in ids:
                self._finish(id, RefineError(refusal.code, refusal.message, False))
            return
        if isinstance(message, Pong):
            self._receive_pong(message, now)
            return
        id = getattr(message, "id", None)
        pending, ended = self._jobs.get(id), self._jobs.receive(message, now)
        if isinstance(message, Progress):
            self._report_progress(message)
        elif isinstance(message, Result) and pending is not None:
            self._finish(id, self._pixels(pending.request, message))
        elif isinstance(message, Error) and ended:
            error = RefineTimeout(message.message) if message.code == "deadline" else None
            self._finish(id, error or RefineError(message.code, message.message, message.retryable))
        elif isinstance(message, Error) and pending is None and message.code not in ("unknown-id", "cancelled"):
            logger.warning("%s: %s", self.address, message.message)

    def _receive_pong(self, pong: Pong, now: float) -> None:
        if self._instance is not None and self._instance != pong.instance:
            # The server was restarted behind a proxy that kept the connection.
            self._jobs.send_all_again(now)
        self._instance = pong.instance
        with self._lock:
            waiting, self._pings = self._pings, []
        for _, future in waiting:
            future.set_result(pong)

    def _pixels(self, request: Request, result: Result) -> np.ndarray | RefineError:
        size = result.width, result.height
        try:
            if size != (request.width, request.height):
                raise ValueError("result is {}×{}, the image was {}×{}".format(*size, request.width, request.height))
            # A writable copy, independent of the socket's memory.
            return np.array(images.to_pixels(result.image, *size, result.encoding))
        except ValueError as error:
            return RefineError("bad-image", f"{self.address}: {error}", False)

    def _report_progress(self, message: Progress) -> None:
        job = self._futures.get(message.id)
        if job is None or job._on_progress is None:
            return
        preview = None
        if message.width is not None and message.height is not None and message.encoding is not None:
            # A copy, independent of the socket's memory.
            image = bytes(message.image)
            preview = partial(images.to_pixels, image, message.width, message.height, message.encoding)
        self._callbacks.submit(partial(_tell, job._on_progress, message.step, message.steps, preview))

    def _time_out(self, now: float) -> None:
        """Ends the jobs and pings whose deadline has passed."""
        for pending in self._jobs.expired(now):
            reason = pending.reason or ("the server has not finished it" if self.connected else self._connection.trouble)
            self._jobs.remove(pending.id)
            self._end(pending.id, RefineTimeout(f"no image within {pending.request.deadline:g} s: {reason}"))
            if pending.is_with_server:
                self._connection.send(Cancel(id=pending.id), now)
        for id, (deadline, outcome) in list(self._outcomes.items()):
            if deadline <= now:
                self._end(id, outcome)
                del self._outcomes[id]
        with self._lock:
            late = [future for deadline, future in self._pings if deadline <= now]
            self._pings = [(deadline, future) for deadline, future in self._pings if deadline > now]
        for future in late:
            future.set_exception(RefineTimeout(f"no pong: {self._connection.trouble}"))

    def _finish(self, id: str | None, outcome: np.ndarray | RefineError) -> None:
        """Ends a job with its outcome, after the calls of its on_progress."""
        job = self._futures.get(id or "")
        pending = self._jobs.remove(id or "")
        if job is None or pending is None:
            return
        if job._on_progress is None:
            self._end(job.id, outcome)
        else:
            # If they take until the deadline, the job ends without them.
            self._outcomes[job.id] = (pending.deadline, outcome)
            self._callbacks.submit(partial(self._end, job.id, outcome))

    def _end(self, id: str, outcome: np.ndarray | RefineError) -> None:
        with self._lock:
            job = self._futures.pop(id, None)
        if job is not None:
            _set(job, outcome)


def _set(job: Job, outcome: np.ndarray | RefineError) -> None:
    """Sets the outcome of a job, unless it has one or was cancelled."""
    with suppress(InvalidStateError):
        if isinstance(outcome, RefineError):
            job.set_exception(outcome)
        else:
            job.set_result(outcome)


def _tell(on_progress: OnProgress, step: int, steps: int, preview: Callable[[], np.ndarray] | None) -> None:
    on_progress(step, steps, None if preview is None else preview())
