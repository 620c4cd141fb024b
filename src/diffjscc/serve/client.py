# SPDX-License-Identifier: GPL-3.0-or-later
"""The client: hands images to a server and gets them back refined, through whatever happens to server and network."""

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

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from . import images, keys
from .addresses import DEFAULT, check_port
from .mailbox import Mailbox
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

#: Seconds between pings while something is outstanding; and of silence after which the connection is given up.
PING_SECONDS, SILENCE_SECONDS = 1.0, 6.0

#: Bytes a second of the slowest network that is not taken for silence: a pong comes after the image that is on its way.
SLOWEST = 50_000

#: Seconds between attempts to connect: at first, and at most. libzmq doubles in between.
RECONNECT_SECONDS = (0.1, 5.0)

#: Seconds before a request is sent again that a server could not take: at first, and at most; doubled, and scattered.
RETRY_SECONDS = (0.1, 5.0)

#: Messages that libzmq takes for a server that reads slowly; the rest wait here.
SEND_QUEUE = 16

#: Errors that another attempt may cure before the deadline. Not "lost": an image that ended two workers may end the next.
WORTH_RETRYING = ("draining",)

FAILED_HANDSHAKES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class RefineError(Exception):
    """An image that was not refined: the protocol's code, one line, and whether the same request may succeed later."""

    def __init__(self, code: str, message: str, retryable: bool):
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


class RefineTimeout(RefineError):
    """The deadline passed without an answer."""

    def __init__(self, message: str):
        super().__init__("deadline", message, True)


class Job(Future):
    """An image on its way: a future of refined pixels, uint8 (H, W, 3), or of a `RefineError`. ``id`` names it to the server.

    It is over by its deadline, whatever happens. ``cancel()`` works until then, and tells the server.
    """

    def __init__(self, request: Request, on_progress: Callable | None):
        super().__init__()
        self.id = request.id
        self._request, self._on_progress = request, on_progress
        self._deadline = time.monotonic() + request.deadline
        # When to send it (again); infinity once sent.
        self._due, self._retry, self._trouble = 0.0, RETRY_SECONDS[0], ""

    def _again(self, wait: float) -> None:
        """Sends it again in about ``wait`` seconds: scattered, so that clients refused together do not return together."""
        self._due = time.monotonic() + wait * random.uniform(0.75, 1.25)
        self._retry = min(2 * self._retry, RETRY_SECONDS[1])


class RefineClient:
    """A connection to a refinement service, kept up by a thread of its own. Every method may be called from any thread.

    address          of the server, such as tcp://gpu.local:5555
    server_key       file with the server's public key, and secret_key: file with this client's pair; both or neither
    max_outstanding  jobs that may be unfinished; one more is refused
    on_outage        called in the client's thread with one line when the server is away while a job is unfinished, once
                     until it is back; none: logged as a warning

    A server that cannot be reached, restarts, is full or stops is tried again with growing pauses until a job's deadline.
    Images of a job asked twice are computed once: the server knows it by its id.

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
        on_outage: Callable[[str], None] | None = None,
    ):
        if (server_key is None) != (secret_key is None):
            raise ValueError("server_key and secret_key go together: give both files, or neither")
        if max_outstanding < 1:
            raise ValueError(f"max_outstanding = {max_outstanding}: must be at least 1")
        check_port(address)
        self.address, self._max_outstanding = address, max_outstanding
        self._curve = None if server_key is None else (keys.load_public(server_key), *keys.load_pair(secret_key))
        self._jobs: dict[str, Job] = {}
        self._pings: list[tuple[float, Future]] = []
        self._lock = threading.Lock()
        self._closing = False
        self._mailbox = Mailbox()
        self._context = zmq.Context.instance()
        self._socket = self._monitor = None
        self._on_outage = on_outage or logger.warning
        self._away_since: float | None = time.monotonic()
        try:
            self._connect()
        except zmq.ZMQError as error:
            self._mailbox.close()
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
        on_progress: Callable[[int, int, np.ndarray | None], None] | None = None,
        preview: bool = False,
    ) -> Job:
        """Hands in an image, uint8 (H, W, 3), and returns at once; the image is encoded here, in the caller's thread.

        deadline     seconds until the job is over, one way or the other
        encoding     of both images on the way: "png", "raw" on a fast network, or "jpeg" where loss is tolerable
        on_progress  called in the client's thread as (step, steps, None or, with ``preview``, the image so far)

        The rest is as in `DiffJSCCPipeline`. Raises ValueError for bad input, and RefineError "busy" where too many jobs
        are outstanding, or "closed".
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
            # The caller may go on and write into its array.
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
        job.add_done_callback(self._mailbox.put)
        self._mailbox.put(None)
        return job

    def refine(self, pixels: np.ndarray, snr_db: float | None = None, refiner: str = "mini", **options) -> np.ndarray:
        """`submit`, and the refined pixels when they are there. Raises RefineError; RefineTimeout after the deadline."""
        job = self.submit(pixels, snr_db, refiner, **options)
        try:
            return job.result()
        except BaseException:
            job.cancel()
            raise

    async def arefine(self, pixels: np.ndarray, snr_db: float | None = None, refiner: str = "mini", **options) -> np.ndarray:
        """`refine` for asyncio; cancelling the task cancels the job."""
        # Encoding a large image takes a while, in which the loop had better go on.
        job = await asyncio.to_thread(self.submit, pixels, snr_db, refiner, **options)
        return await asyncio.wrap_future(job)

    def ping(self, timeout: float = 5.0) -> Pong:
        """What the server is at. Raises RefineTimeout where it does not say so within ``timeout`` seconds."""
        pong: Future = Future()
        with self._lock:
            if self._closing:
                raise RefineError("closed", "the client is closed: make a new one", False)
            self._pings.append((time.monotonic() + timeout, pong))
        self._mailbox.put(Ping())
        return pong.result()

    @property
    def connected(self) -> bool:
        """Whether the server is there, as far as is known."""
        return self._away_since is None

    @property
    def away(self) -> float:
        """Seconds since when it is not; 0 while it is."""
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Ends the thread; jobs that are not over end with RefineError "closed"."""
        with self._lock:
            self._closing = True
        self._mailbox.put(None)
        self._thread.join(5.0)

    def __enter__(self) -> RefineClient:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    # The rest runs in the client's thread.

    def _connect(self) -> None:
        """A new socket. Connecting, and connecting again, is libzmq's work, which goes on by itself."""
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        # Nothing is queued for a server that is not there: what it missed is sent when it is.
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
        self._heard, self._pinged, self._reopen = math.inf, -math.inf, math.inf

    def _disconnect(self) -> None:
        self._lose()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _run(self) -> None:
        self._instance, self._outage, self._trouble = None, False, f"{self.address} does not answer"
        self._pause = RECONNECT_SECONDS[0]
        try:
            while not self._closing:
                self._wait()
                self._turn()
        finally:
            self._disconnect()
            self._mailbox.close()
            with self._lock:
                self._closing = True
            for job in list(self._jobs.values()):
                self._end(job, RefineError("closed", "the client was closed", False))
            for _, pong in self._pings:
                pong.set_exception(RefineError("closed", "the client was closed", False))

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._mailbox.fileno(), zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        now = time.monotonic()
        jobs = list(self._jobs.values())
        due = self.connected and any(job._due <= now for job in jobs)
        # A job that is due and was not sent waits for room in the socket.
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if due else 0))
        ends = [job._deadline for job in jobs] + [deadline for deadline, _ in list(self._pings)]
        ends += [job._due for job in jobs if now < job._due < math.inf]
        if self.connected and (jobs or self._pings):
            ends += [self._pinged + PING_SECONDS]
        patience = min([*ends, self._reopen, now + 60.0]) - now
        poller.poll(1000 * max(0.0, patience))

    def _turn(self) -> None:
        self._watch_connection()
        for event in self._mailbox.take():
            if isinstance(event, Job) and event.cancelled():
                self._forget(event)
            elif isinstance(event, Ping):
                # At once, not at the next beat.
                self._pinged = -math.inf
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
        if time.monotonic() >= self._reopen:
            self._disconnect()
            self._connect()

    def _watch_connection(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            kind = event["event"]
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._away_since, self._heard = None, time.monotonic()
                self._pinged, self._pause = -math.inf, RECONNECT_SECONDS[0]
                self._send_all_again()
                if self._outage:
                    logger.info("%s is there again", self.address)
                self._outage = False
            elif kind & FAILED_HANDSHAKES:
                self._fail_connection(f"{self.address} refuses this client, or is not the server of this key: check the keys")
                # libzmq takes that for final.
                self._reopen = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, RECONNECT_SECONDS[1])
            elif kind == zmq.EVENT_DISCONNECTED:
                # After a failed handshake too, when a better reason is known.
                if self.connected:
                    self._fail_connection(f"the connection to {self.address} was lost")
            elif not self._outage:
                self._fail_connection(f"{self.address} cannot be reached")

    def _lose(self) -> None:
        self._away_since = self._away_since or time.monotonic()

    def _fail_connection(self, trouble: str) -> None:
        self._lose()
        self._trouble = trouble
        if not self._outage and self._jobs:
            self._outage = True
            self._on_outage(f"{trouble}: trying again until deadlines pass")

    def _send_all_again(self) -> None:
        """A new connection, or a new server: what was sent on the old one may have been lost, and its answer too."""
        for job in list(self._jobs.values()):
            job._due = min(job._due, 0.0)

    def _send_due(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job._due <= now and not job.done():
                remaining = max(0.0, job._deadline - now)
                if not self._send(replace(job._request, deadline=remaining)):
                    return
                job._due = math.inf

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if not self._jobs and not self._pings:
            self._heard = now
            return
        on_the_way = sum(len(job._request.image) for job in list(self._jobs.values()) if job._due == math.inf)
        if now - self._heard > SILENCE_SECONDS + on_the_way / SLOWEST:
            self._fail_connection(f"{self.address} has been silent for {now - self._heard:.0f} s")
            self._reopen = now
        elif now - self._pinged >= PING_SECONDS and self._send(Ping()):
            self._pinged = now

    def _send(self, message: Message) -> bool:
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _receive(self, frames: list) -> None:
        self._heard = time.monotonic()
        try:
            message = decode(frames)
        except ProtocolError as error:
            logger.warning("%s sent what this client does not understand: %s", self.address, error.message)
            if error.code == "version":
                for job in list(self._jobs.values()):
                    self._end(job, RefineError("version", error.message, False))
            elif error.id in self._jobs:
                self._end(self._jobs[error.id], RefineError(error.code, error.message, False))
            return
        if isinstance(message, Pong):
            self._receive_pong(message)
        elif (job := self._jobs.get(getattr(message, "id", None))) is not None:
            self._receive_of(job, message)
        elif isinstance(message, Error) and message.code not in ("unknown-id", "cancelled"):
            logger.warning("%s: %s", self.address, message.message)

    def _receive_pong(self, pong: Pong) -> None:
        if self._instance not in (None, pong.instance):
            # A proxy between may have hidden from the connection that this is another server.
            self._send_all_again()
        self._instance = pong.instance
        with self._lock:
            waiting, self._pings = self._pings, []
        for _, future in waiting:
            future.set_result(pong)

    def _receive_of(self, job: Job, message: Message) -> None:
        if isinstance(message, Result):
            size = message.width, message.height
            try:
                if size != (job._request.width, job._request.height):
                    raise ValueError("result is {}×{}, the image was {}×{}".format(*size, job._request.width, job._request.height))
                pixels = images.to_pixels(message.image, *size, message.encoding)
                # Its own memory: not the socket's, and writable.
                self._end(job, np.array(pixels))
            except ValueError as error:
                self._end(job, RefineError("bad-image", f"{self.address}: {error}", False))
        elif isinstance(message, Progress) and job._on_progress is not None:
            self._tell(job, message)
        elif isinstance(message, Busy):
            job._trouble = message.message
            job._again(max(message.retry_after, job._retry))
        elif isinstance(message, Error) and message.code in WORTH_RETRYING:
            job._trouble = message.message
            job._again(job._retry)
        elif isinstance(message, Error):
            if message.code == "deadline":
                self._end(job, RefineTimeout(message.message))
            else:
                self._end(job, RefineError(message.code, message.message, message.retryable))
        elif isinstance(message, Accepted):
            job._trouble = ""

    def _tell(self, job: Job, message: Progress) -> None:
        preview = None
        try:
            if message.encoding is not None:
                preview = images.to_pixels(message.image, message.width, message.height, message.encoding)
            job._on_progress(message.step, message.steps, preview)
        except Exception:
            logger.exception("on_progress failed; the job goes on")

    def _time_out(self) -> None:
        now = time.monotonic()
        for job in [job for job in list(self._jobs.values()) if job._deadline <= now]:
            trouble = job._trouble or ("the server has not finished it" if self.connected else self._trouble)
            if self._end(job, RefineTimeout(f"no image within {job._request.deadline:g} s: {trouble}")) and self.connected:
                self._send(Cancel(id=job.id))
        with self._lock:
            late = [future for deadline, future in self._pings if deadline <= now]
            self._pings = [(deadline, future) for deadline, future in self._pings if deadline > now]
        for future in late:
            future.set_exception(RefineTimeout(f"no pong: {self._trouble}"))

    def _forget(self, job: Job) -> None:
        """A job was cancelled."""
        with self._lock:
            known = self._jobs.pop(job.id, None) is not None
        if known:
            with suppress(InvalidStateError, RuntimeError):
                job.set_running_or_notify_cancel()
            if self.connected and job._due == math.inf:
                self._send(Cancel(id=job.id))

    def _end(self, job: Job, outcome: np.ndarray | RefineError) -> bool:
        """False where it was cancelled meanwhile."""
        with self._lock:
            self._jobs.pop(job.id, None)
        try:
            job.set_exception(outcome) if isinstance(outcome, RefineError) else job.set_result(outcome)
        except InvalidStateError:
            return False
        return True
