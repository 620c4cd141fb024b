# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: one thread that owns the socket and only passes messages and events on. Other threads compute and code images."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NoReturn

import zmq

from .. import __version__
from ..errors import one_line
from . import keys
from .addresses import DEFAULT, check_exposure
from .authenticator import Authenticator
from .backend import Backend, Batch, Done, Failure, Item, Stepped
from .batching import Batcher, Task
from .coding import Decoded, Encoded, EncodedPreview, decode_image, encode_preview, encode_result
from .deduplication import DeduplicationCache, request_digest
from .delivery import REDELIVERY_SECONDS, Cached, Delivery
from .event_queue import EventQueue
from .protocol import (
    MAX_IMAGE,
    Accepted,
    Busy,
    Cancel,
    Error,
    Frames,
    Ping,
    Pong,
    Progress,
    ProtocolError,
    Request,
    decode,
    encode,
)
from .status import Status

logger = logging.getLogger(__name__)

#: Messages that libzmq queues for a client that does not read, or from one that sends too fast. Few, because images are large.
PEER_QUEUE = 16

#: Messages that are received in a row before events and deadlines are handled again.
MESSAGES_IN_A_ROW = 64

#: The least seconds between two progress messages for one request.
PROGRESS_SECONDS = 0.05

#: Threads that decode and encode images.
IMAGE_THREADS = 2


class Stop:
    """The event by which the server is told to stop."""


Event = Decoded | Stepped | Done | Encoded | EncodedPreview | Stop


class Server:
    """Refines images for clients.

        ROUTER ─► check ─► deduplicate ─► queue ─► decode ─► batch ─► backend ─► encode ─► ROUTER
                    │ error      │ cached reply      │ deadline has passed

    backend      computes
    bind         ZeroMQ address, such as tcp://127.0.0.1:5555; port * is any free one: see `address`
    max_queue, max_batch, window  see `Batcher`
    keep         bytes of replies cached for retries
    server_keys  folder with server.key_secret; clients: folder of the public keys that may connect. Both or neither
    insecure     allows addresses that other machines can reach without keys
    status       (host, port) of the status page and metrics; None: no page
    drain        seconds that running batches may still take once the server is told to stop

    Raises ValueError for impossible values, and where an address cannot be bound or is not safe.
    """

    def __init__(
        self,
        backend: Backend,
        bind: str = DEFAULT,
        *,
        max_queue: int = 64,
        max_batch: int = 8,
        window: float = 0.002,
        keep: int = 64 << 20,
        server_keys: str | os.PathLike | None = None,
        clients: str | os.PathLike | None = None,
        insecure: bool = False,
        status: tuple[str, int] | None = None,
        drain: float = 60.0,
    ):
        if keep < 0:
            raise ValueError(f"keep = {keep}: must be at least 0 bytes")
        if not 0 <= drain < math.inf:
            raise ValueError(f"drain = {drain}: must be at least 0 seconds, and finite")
        check_exposure(bind, status, server_keys, clients, insecure)
        self.instance = uuid.uuid4().hex
        self._backend, self._drain = backend, drain
        self._batcher = Batcher(max_queue, max_batch, window)
        self._cache = DeduplicationCache(keep)
        self._running: dict[int, list[Task]] = {}
        self._numbers = itertools.count(1)
        self._encoding = 0
        self._batch_seconds = 0.5
        self._stop_by: float | None = None
        self._events: EventQueue[Event] = EventQueue()
        self._pool = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="diffjscc-images")
        self._status = Status(backend.refiners, backend.memory, self.load)
        self._context = zmq.Context()
        self._authenticator: Authenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._delivery = Delivery(self._socket, self._cache)
        try:
            self._open(bind, server_keys, clients)
            self._page = self._status.serve(*status) if status else None
        except BaseException:
            self._close_sockets()
            raise

    def _open(self, bind: str, server_keys: str | os.PathLike | None, clients: str | os.PathLike | None) -> None:
        socket = self._socket
        socket.linger = 2000
        socket.sndhwm = socket.rcvhwm = PEER_QUEUE
        # libzmq closes the connection before it receives a larger frame.
        socket.maxmsgsize = MAX_IMAGE
        # Otherwise libzmq would silently drop replies to a client that does not read.
        socket.router_mandatory = True
        # Long intervals: they only serve to forget machines that are gone, and a large image takes long over a slow network.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 30_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 120_000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        if server_keys is not None:
            socket.curve_publickey, socket.curve_secretkey = keys.load_pair(os.path.join(server_keys, keys.SERVER + keys.SECRET))
            socket.curve_server = True
            self._authenticator = Authenticator(self._context, clients) if clients is not None else None
        try:
            socket.bind(bind)
        except zmq.ZMQError as error:
            raise ValueError(f"cannot bind {bind}: {error}") from None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def load(self) -> tuple[int, int]:
        """(tasks that wait, tasks that are computed or encoded)."""
        return len(self._batcher), sum(map(len, self._running.values())) + self._encoding

    def stop(self) -> None:
        """Begins to drain: running tasks are finished, waiting and new ones are refused, then `run` returns.

        Called a second time, running tasks are refused too. Any thread, or a signal handler, may call it.
        """
        self._events.put(Stop())

    def run(self) -> None:
        """Serves until `stop`; then closes the backend and all sockets."""
        try:
            self._backend.start(self._events.put)
            security = "CURVE" if self._authenticator else "no keys"
            logger.info("serving %s on %s (%s)", ", ".join(self._backend.refiners), self.address, security)
            if self._page:
                logger.info("status on %s", self._page.address)
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(self._events.fileno(), zmq.POLLIN)
            while not self._drained():
                poller.poll(int(1000 * self._seconds_to_wait()))
                self._handle_all()
            logger.info("drained, stopping")
        finally:
            self._backend.close(timeout=1.0)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._close_sockets()
            if self._page:
                self._page.close()
            self._events.close()

    def _close_sockets(self) -> None:
        if self._authenticator:
            self._authenticator.close()
        self._socket.close()
        self._context.term()

    def _seconds_to_wait(self) -> float:
        """How long to wait for the next message or event."""
        seconds = REDELIVERY_SECONDS if self._delivery else 1.0
        if len(self._running) < self._backend.slots:
            return min(seconds, self._batcher.next_change(time.monotonic()))
        return seconds

    def _handle_all(self) -> None:
        for _ in range(MESSAGES_IN_A_ROW):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._receive(frames)
        for event in self._events.take():
            self._handle(event)
        now = time.monotonic()
        self._cache.evict(now)
        for task in self._batcher.take_expired(now):
            waited = now - task.arrived
            self._refuse(task, ProtocolError("deadline", f"deadline passed after {waited:.1f} s in the queue"))
        self._dispatch()
        self._delivery.send_again()

    # Messages from clients.

    def _receive(self, frames: list[zmq.Frame]) -> None:
        peer, user = frames[0].bytes, _user(frames[0])
        try:
            message = decode([frame.buffer for frame in frames[1:]])
            if isinstance(message, Request):
                self._request(peer, user, message)
            elif isinstance(message, Cancel):
                self._cancel(peer, (user, message.id))
            elif isinstance(message, Ping):
                queued, running = self.load()
                pong = Pong(
                    version=__version__, instance=self.instance, refiners=self._backend.refiners, queued=queued, running=running
                )
                self._delivery.send(peer, encode(pong))
            else:
                raise ProtocolError("bad-request", f"{message.type} is a message of servers: expected refine, cancel or ping")
        except ProtocolError as error:
            self._status.count(error.code)
            logger.info("refused %s: %s", error.id or "a message", error.message)
            self._delivery.send(peer, _error(error.id, error))
        except Exception:
            # A bug that one message triggers must not end the service for all clients.
            logger.exception("a message could not be handled")
            self._status.count("internal")

    def _request(self, peer: bytes, user: str, request: Request) -> None:
        key, digest, now = (user, request.id), request_digest(request), time.monotonic()
        reply, task = self._cache.reply(key), self._cache.tasks.get(key)
        known = reply or task
        if known is not None and known.digest != digest:
            self._raise(request, "duplicate", f"id {request.id} was used for another request: choose a new one")
        if reply is not None:
            self._status.count("repeated")
            self._delivery.send(peer, Cached(key))
            return
        if task is not None:
            self._status.count("repeated")
            # The first connection may be gone: from now on the reply goes to this one, under the deadline of the retry.
            task.peer, task.deadline = peer, now + request.deadline
            task.request = replace(task.request, progress=request.progress, preview=request.preview)
            self._delivery.send(peer, encode(Accepted(id=request.id)))
            return
        if self._stop_by is not None:
            self._raise(request, "draining", "the server is about to stop: try again later")
        if request.refiner not in self._backend.refiners:
            refiners = ", ".join(self._backend.refiners)
            self._raise(
                request, "unknown-refiner", f"refiner {one_line(request.refiner, 60)!r} is not served here: there are {refiners}"
            )
        task = Task(key, digest, request, peer, now, now + request.deadline)
        if not self._batcher.admit(task):
            self._status.count("busy")
            batches = len(self._batcher) / self._batcher.max_batch / max(1, self._backend.slots)
            retry_after = min(30.0, max(0.05, self._batch_seconds * batches))
            message = f"{len(self._batcher)} requests wait already"
            self._delivery.send(peer, encode(Busy(id=request.id, message=message, retry_after=retry_after)))
            return
        self._cache.add(task)
        self._delivery.send(peer, encode(Accepted(id=request.id)))
        if request.encoding == "raw":
            # Takes no time: the pixels are a view of the message.
            self._handle_decoded(decode_image(task))
        else:
            self._in_pool(decode_image, task)

    def _in_pool(self, function: Callable[..., Event], task: Task, *arguments: object) -> None:
        """Calls a function in a thread of the pool; its result becomes an event."""
        self._pool.submit(lambda: self._events.put(function(task, *arguments)))

    @staticmethod
    def _raise(request: Request, code: str, message: str) -> NoReturn:
        error = ProtocolError(code, message)
        error.id = request.id
        raise error

    def _cancel(self, peer: bytes, key: tuple[str, str]) -> None:
        task = self._cache.tasks.get(key)
        if task is None:
            error = ProtocolError("unknown-id", f"nothing of id {key[1]} waits or runs here")
            error.id = key[1]
            raise error
        task.peer = peer
        self._batcher.take(key)
        self._refuse(task, ProtocolError("cancelled", "cancelled by the client"), keep=True)
        for number, tasks in self._running.items():
            if not any(self._is_open(task) for task in tasks):
                self._backend.stop(number)

    # To the backend, and events.

    def _dispatch(self) -> None:
        while len(self._running) < self._backend.slots and self._stop_by is None:
            tasks = self._batcher.take_batch(time.monotonic())
            if not tasks:
                return
            number, first = next(self._numbers), tasks[0].request
            items = tuple(
                Item(task.pixels, task.request.snr_db, task.request.seed, task.request.prompt)
                for task in tasks
                # True of every task in a batch.
                if task.pixels is not None
            )
            previews = tuple(index for index, task in enumerate(tasks) if task.request.preview)
            self._running[number] = tasks
            self._status.started(len(tasks))
            self._backend.submit(Batch(number, first.refiner, first.steps, first.sampler, items, previews))

    def _handle(self, event: Event) -> None:
        if isinstance(event, Decoded):
            self._handle_decoded(event)
        elif isinstance(event, Stepped):
            self._handle_stepped(event)
        elif isinstance(event, Done):
            self._handle_done(event)
        elif isinstance(event, Encoded):
            self._handle_encoded(event)
        elif isinstance(event, EncodedPreview):
            self._send_progress(event.task, event.step, event.frames)
        elif self._stop_by is None:
            self._begin_draining()
        else:
            logger.warning("told to stop again: not waiting for what runs")
            self._stop_by = 0.0

    def _handle_decoded(self, event: Decoded) -> None:
        if not self._is_open(event.task):
            return
        if isinstance(event.outcome, ProtocolError):
            self._batcher.take(event.task.key)
            self._refuse(event.task, event.outcome, keep=True)
        else:
            self._batcher.decoded(event.task.key, event.outcome, time.monotonic())

    def _handle_stepped(self, event: Stepped) -> None:
        now = time.monotonic()
        for index, task in enumerate(self._running.get(event.number, ())):
            other = event.items is not None and index not in event.items
            too_soon = now - task.reported < PROGRESS_SECONDS and event.step < event.steps
            if other or not task.request.progress or not self._is_open(task) or (too_soon and index not in event.previews):
                continue
            task.reported = now
            if index in event.previews:
                self._in_pool(encode_preview, task, event, event.previews[index])
            else:
                progress = Progress(id=task.request.id, step=event.step, steps=event.steps)
                self._send_progress(task, event.step, encode(progress))

    def _send_progress(self, task: Task, step: int, frames: Frames) -> None:
        """Sends a progress message, unless the final reply or a later step was sent already.

        Previews are encoded by several threads, so that a later one may be ready first.
        """
        if self._is_open(task) and step > task.step:
            task.step = step
            self._delivery.offer(task.peer, frames)

    def _handle_done(self, event: Done) -> None:
        tasks = self._running.pop(event.number)
        self._status.finished(event.seconds)
        self._batch_seconds += 0.2 * (event.seconds - self._batch_seconds)
        for task, outcome in zip(tasks, event.outcomes):
            if not self._is_open(task):
                continue
            if isinstance(outcome, Failure):
                # Other failures are not cached, because a retry may succeed.
                self._refuse(task, ProtocolError(outcome.code, outcome.message), keep=outcome.code == "failed")
            else:
                self._encoding += 1
                self._in_pool(encode_result, task, outcome)
                if self._page and task.pixels is not None and self._status.wants_image():
                    self._pool.submit(self._status.show, task.request, task.pixels, outcome)

    def _handle_encoded(self, event: Encoded) -> None:
        self._encoding -= 1
        task = event.task
        if not self._is_open(task):
            return
        if isinstance(event.outcome, ProtocolError):
            self._refuse(task, event.outcome, keep=True)
        else:
            now = time.monotonic()
            self._status.succeeded(now - task.arrived)
            self._finish(task, event.outcome, now, keep=True)

    # Replies to clients.

    def _is_open(self, task: Task) -> bool:
        """Whether the task still waits for its final reply."""
        return self._cache.tasks.get(task.key) is task

    def _refuse(self, task: Task, error: ProtocolError, keep: bool = False) -> None:
        logger.info("request %s: %s: %s", task.request.id, error.code, error.message)
        self._status.count(error.code)
        self._finish(task, _error(task.request.id, error), time.monotonic(), keep)

    def _finish(self, task: Task, frames: Frames, now: float, keep: bool) -> None:
        self._cache.finish(task, frames, now, keep)
        self._delivery.send(task.peer, Cached(task.key) if keep else frames)

    # The end.

    def _begin_draining(self) -> None:
        waiting, running = self.load()
        logger.info("draining: %d running to finish, %d waiting refused", running, waiting)
        self._stop_by = time.monotonic() + self._drain
        for task in self._batcher.take_all():
            self._refuse(task, ProtocolError("draining", "the server stops before it comes to this: try again later"))

    def _drained(self) -> bool:
        if self._stop_by is None:
            return False
        if time.monotonic() >= self._stop_by:
            for task in list(self._cache.tasks.values()):
                self._refuse(task, ProtocolError("draining", "the server stops without finishing this: try again later"))
            return True
        return not self._cache.tasks and not self._delivery


def _error(id: str | None, error: ProtocolError) -> Frames:
    return encode(Error(id=id, code=error.code, message=one_line(error.message), retryable=error.retryable))


def _user(frame: zmq.Frame) -> str:
    """The public key of the client that sent a frame; empty without CURVE. It keeps the ids of different clients apart."""
    try:
        return str(frame.get("User-Id"))
    except (zmq.ZMQError, KeyError):
        return ""
