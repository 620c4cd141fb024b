# SPDX-License-Identifier: GPL-3.0-or-later
"""The client: sends images to a server and receives them refined. It retries through failures of server and network."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from . import images, keys
from .addresses import DEFAULT, check_port
from .event_queue import EventQueue
from .protocol import (
    ENCODINGS,
    MAX_IMAGE,
    Accepted,
    Busy,
    Cancel,
    Error,
    Message,
    Ping,
    Pong,
    Progress,
    ProtocolError,
    Request,
    Result,
    decode,
    encode,
)

logger = logging.getLogger(__name__)

#: Seconds between pings while a reply is outstanding; and seconds without any message after which the connection is given up.
PING_SECONDS, SILENCE_SECONDS = 1.0, 6.0

#: Bytes per second of the slowest network that is supported: an image that is being sent delays the pong by its size over this.
SLOWEST = 50_000

#: Back-off between attempts to connect, s: the first, and the longest. libzmq doubles it in between.
RECONNECT_SECONDS = (0.1, 5.0)

#: Back-off before a request is sent again that the server could not accept, s: the first, and the longest; doubled in between,
#: with jitter.
RETRY_SECONDS = (0.1, 5.0)

#: Messages that libzmq queues for a server that reads slowly; the others wait in the client.
SEND_QUEUE = 16

#: Errors after which a request is sent again until its deadline. Not "lost": an image that killed two workers may kill the next.
RETRIED_CODES = ("draining",)

FAILED_HANDSHAKES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


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
    """

    def __init__(self, request: Request, on_progress: OnProgress | None):
        super().__init__()
        self.id = request.id
        self._request, self._on_progress = request, on_progress
        self._deadline = time.monotonic() + request.deadline
        # When to send the request, or to send it again; infinity once it is sent.
        self._send_at = 0.0
        self._back_off, self._last_error = RETRY_SECONDS[0], ""

    def _send_again(self, seconds: float) -> None:
        """Schedules the request to be sent again in about ``seconds``, with jitter so that clients do not retry in step."""
        self._send_at = time.monotonic() + seconds * random.uniform(0.75, 1.25)
        self._back_off = min(2 * self._back_off, RETRY_SECONDS[1])


class RefineClient:
    """A connection to a refinement service, maintained by a thread of its own. Any thread may call its methods. No torch is needed.

    address          of the server, such as tcp://gpu.local:5555
    server_key       file with the server's public key, and secret_key: file with this client's key pair; both or neither
    max_outstanding  jobs that may be unfinished; another one is refused
    on_outage        called in the client's thread with one line when the server becomes unreachable while a job is
                     unfinished; again only after it was reachable. None: logged as a warning

    When the server cannot be reached, restarts, is busy or stops, the client tries again with exponential back-off until the
    job's deadline. A request that is sent again is computed only once, because its id is an idempotency key.

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
        self._curve: tuple[bytes, bytes, bytes] | None = None
        if server_key is not None and secret_key is not None:
            self._curve = (keys.load_public(server_key), *keys.load_pair(secret_key))
        elif server_key is not None or secret_key is not None:
            raise ValueError("server_key and secret_key go together: give both files, or neither")
        if max_outstanding < 1:
            raise ValueError(f"max_outstanding = {max_outstanding}: must be at least 1")
        check_port(address)
        self.address, self._max_outstanding = address, max_outstanding
        self._jobs: dict[str, Job] = {}
        # Pings without an answer: (deadline, future).
        self._pings: list[tuple[float, Future[Pong]]] = []
        self._lock = threading.Lock()
        self._closing = False
        self._events: EventQueue[Job | Ping | None] = EventQueue()
        self._context: zmq.Context = zmq.Context.instance()
        self._on_outage: Callable[[str], object] = on_outage or logger.warning
        self._away_since: float | None = time.monotonic()
        try:
            self._connect()
        except zmq.ZMQError as error:
            self._events.close()
            raise ValueError(f"cannot connect to {address!r} ({error}): expected an address such as tcp://host:5555") from None
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
        on_progress  called in the client's thread as (step, steps, None or, with ``preview``, the intermediate image)

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
        job = Job(request, on_progress)
        with self._lock:
            if self._closing:
                raise RefineError("closed", "the client is closed: make a new one", False)
            outstanding = sum(not other.done() for other in self._jobs.values())
            if outstanding >= self._max_outstanding:
                raise RefineError("busy", f"{outstanding} jobs are outstanding: wait for one, or raise max_outstanding", True)
            self._jobs[job.id] = job
        # Tells the client's thread when the job is cancelled.
        job.add_done_callback(lambda _: self._events.put(job))
        self._events.put(None)
        return job

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
        return self._away_since is None

    @property
    def away(self) -> float:
        """Seconds since the connection was lost, or since the client was made; 0 while it is up."""
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Ends the thread; unfinished jobs fail with RefineError "closed"."""
        with self._lock:
            self._closing = True
        self._events.put(None)
        self._thread.join(5.0)

    def __enter__(self) -> RefineClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The rest runs in the client's thread.

    def _connect(self) -> None:
        """Opens a socket. libzmq connects, and connects again after failures, by itself."""
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        # libzmq queues nothing while there is no connection; the client sends unfinished requests when there is one.
        socket.immediate = True
        socket.sndhwm = SEND_QUEUE
        socket.maxmsgsize = MAX_IMAGE
        socket.reconnect_ivl, socket.reconnect_ivl_max = (int(1000 * seconds) for seconds in RECONNECT_SECONDS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        if self._curve is not None:
            socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = self._curve
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | FAILED_HANDSHAKES
        )
        try:
            socket.connect(self.address)
        except zmq.ZMQError:
            self._disconnect()
            raise
        self._last_message, self._last_ping, self._reopen_at = math.inf, -math.inf, math.inf

    def _disconnect(self) -> None:
        self._note_loss()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _run(self) -> None:
        self._instance: str | None = None
        # An outage is reported once, until the connection is up again.
        self._outage_reported, self._last_error = False, f"{self.address} does not answer"
        self._back_off = RECONNECT_SECONDS[0]
        try:
            while not self._closing:
                self._wait()
                self._handle_all()
        finally:
            self._disconnect()
            self._events.close()
            with self._lock:
                self._closing = True
            for job in list(self._jobs.values()):
                self._finish(job, RefineError("closed", "the client was closed", False))
            for _, pong in self._pings:
                pong.set_exception(RefineError("closed", "the client was closed", False))

    def _wait(self) -> None:
        """Waits for the next event, message or change of the connection, or until something is to be done."""
        poller = zmq.Poller()
        poller.register(self._events.fileno(), zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        now = time.monotonic()
        jobs = list(self._jobs.values())
        # A request that should have been sent already waits for room in the socket's queue.
        blocked = self.connected and any(job._send_at <= now for job in jobs)
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if blocked else 0))
        times = [job._deadline for job in jobs] + [deadline for deadline, _ in list(self._pings)]
        times += [job._send_at for job in jobs if now < job._send_at < math.inf]
        if self.connected and (jobs or self._pings):
            times += [self._last_ping + PING_SECONDS]
        seconds = min([*times, self._reopen_at, now + 60.0]) - now
        poller.poll(int(1000 * max(0.0, seconds)))

    def _handle_all(self) -> None:
        self._watch_connection()
        for event in self._events.take():
            if isinstance(event, Job) and event.cancelled():
                self._forget(event)
            elif isinstance(event, Ping):
                # Sent at once instead of at the next interval.
                self._last_ping = -math.inf
        while self.connected:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._receive([frame.buffer for frame in frames])
        self._time_out()
        if self.connected:
            self._send_due()
            self._keep_alive()
        if time.monotonic() >= self._reopen_at:
            self._disconnect()
            self._connect()

    def _watch_connection(self) -> None:
        while self._monitor.poll(0):
            kind = recv_monitor_message(self._monitor)["event"]
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._away_since, self._last_message = None, time.monotonic()
                self._last_ping, self._back_off = -math.inf, RECONNECT_SECONDS[0]
                self._send_all_again()
                if self._outage_reported:
                    logger.info("%s is reachable again", self.address)
                self._outage_reported = False
            elif kind & FAILED_HANDSHAKES:
                self._fail_connection(f"{self.address} refuses this client, or is not the server of this key: check the keys")
                # libzmq does not try again after a failed handshake.
                self._reopen_at = time.monotonic() + self._back_off
                self._back_off = min(2 * self._back_off, RECONNECT_SECONDS[1])
            elif kind == zmq.EVENT_DISCONNECTED:
                # This event follows a failed handshake too, whose message is the better one.
                if self.connected:
                    self._fail_connection(f"the connection to {self.address} was lost")
            elif not self._outage_reported:
                self._fail_connection(f"{self.address} cannot be reached")

    def _note_loss(self) -> None:
        self._away_since = self._away_since or time.monotonic()

    def _fail_connection(self, error: str) -> None:
        self._note_loss()
        self._last_error = error
        if not self._outage_reported and self._jobs:
            self._outage_reported = True
            self._on_outage(f"{error}: trying again until deadlines pass")

    def _send_all_again(self) -> None:
        """After a reconnection or a restart of the server: requests, or their replies, may have been lost."""
        for job in list(self._jobs.values()):
            job._send_at = min(job._send_at, 0.0)

    def _send_due(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job._send_at <= now and not job.done():
                remaining = max(0.0, job._deadline - now)
                if not self._send(replace(job._request, deadline=remaining)):
                    return
                job._send_at = math.inf

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if not self._jobs and not self._pings:
            self._last_message = now
            return
        being_sent = sum(len(job._request.image) for job in list(self._jobs.values()) if job._send_at == math.inf)
        if now - self._last_message > SILENCE_SECONDS + being_sent / SLOWEST:
            self._fail_connection(f"{self.address} has been silent for {now - self._last_message:.0f} s")
            self._reopen_at = now
        elif now - self._last_ping >= PING_SECONDS and self._send(Ping()):
            self._last_ping = now

    def _send(self, message: Message) -> bool:
        """False where the socket's queue is full."""
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _receive(self, frames: list) -> None:
        self._last_message = time.monotonic()
        try:
            message = decode(frames)
        except ProtocolError as error:
            logger.warning("%s sent a message that this client does not understand: %s", self.address, error.message)
            if error.code == "version":
                for unfinished in list(self._jobs.values()):
                    self._finish(unfinished, RefineError("version", error.message, False))
            elif error.id in self._jobs:
                self._finish(self._jobs[error.id], RefineError(error.code, error.message, False))
            return
        job = self._jobs.get(getattr(message, "id", None) or "")
        if isinstance(message, Pong):
            self._receive_pong(message)
        elif job is not None:
            self._receive_of(job, message)
        elif isinstance(message, Error) and message.code not in ("unknown-id", "cancelled"):
            logger.warning("%s: %s", self.address, message.message)

    def _receive_pong(self, pong: Pong) -> None:
        if self._instance is not None and self._instance != pong.instance:
            # The server was restarted behind a proxy that kept the connection.
            self._send_all_again()
        self._instance = pong.instance
        with self._lock:
            waiting, self._pings = self._pings, []
        for _, future in waiting:
            future.set_result(pong)

    def _receive_of(self, job: Job, message: Message) -> None:
        """Handles a message about a job."""
        if isinstance(message, Result):
            size = message.width, message.height
            try:
                if size != (job._request.width, job._request.height):
                    raise ValueError("result is {}×{}, the image was {}×{}".format(*size, job._request.width, job._request.height))
                pixels = images.to_pixels(message.image, *size, message.encoding)
                # A writable copy, independent of the socket's memory.
                self._finish(job, np.array(pixels))
            except ValueError as error:
                self._finish(job, RefineError("bad-image", f"{self.address}: {error}", False))
        elif isinstance(message, Progress):
            if job._on_progress is not None:
                self._report_progress(job._on_progress, message)
        elif isinstance(message, Busy):
            job._last_error = message.message
            job._send_again(max(message.retry_after, job._back_off))
        elif isinstance(message, Error) and message.code in RETRIED_CODES:
            job._last_error = message.message
            job._send_again(job._back_off)
        elif isinstance(message, Error):
            if message.code == "deadline":
                self._finish(job, RefineTimeout(message.message))
            else:
                self._finish(job, RefineError(message.code, message.message, message.retryable))
        elif isinstance(message, Accepted):
            job._last_error = ""

    @staticmethod
    def _report_progress(on_progress: OnProgress, message: Progress) -> None:
        preview = None
        try:
            if message.width is not None and message.height is not None and message.encoding is not None:
                preview = images.to_pixels(message.image, message.width, message.height, message.encoding)
            on_progress(message.step, message.steps, preview)
        except Exception:
            logger.exception("on_progress failed; the job goes on")

    def _time_out(self) -> None:
        """Ends the jobs and pings whose deadline has passed."""
        now = time.monotonic()
        for job in [job for job in list(self._jobs.values()) if job._deadline <= now]:
            reason = job._last_error or ("the server has not finished it" if self.connected else self._last_error)
            if self._finish(job, RefineTimeout(f"no image within {job._request.deadline:g} s: {reason}")) and self.connected:
                self._send(Cancel(id=job.id))
        with self._lock:
            late = [future for deadline, future in self._pings if deadline <= now]
            self._pings = [(deadline, future) for deadline, future in self._pings if deadline > now]
        for future in late:
            future.set_exception(RefineTimeout(f"no pong: {self._last_error}"))

    def _forget(self, job: Job) -> None:
        """Removes a job that was cancelled, here and on the server."""
        with self._lock:
            known = self._jobs.pop(job.id, None) is not None
        if known:
            with suppress(InvalidStateError, RuntimeError):
                job.set_running_or_notify_cancel()
            if self.connected and job._send_at == math.inf:
                self._send(Cancel(id=job.id))

    def _finish(self, job: Job, outcome: np.ndarray | RefineError) -> bool:
        """Sets the outcome of a job; False where it was cancelled meanwhile."""
        with self._lock:
            self._jobs.pop(job.id, None)
        try:
            if isinstance(outcome, RefineError):
                job.set_exception(outcome)
            else:
                job.set_result(outcome)
        except InvalidStateError:
            return False
        return True
