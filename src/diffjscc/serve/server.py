# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: one thread that owns the socket and never computes, decodes or waits for anything but its next event."""

from __future__ import annotations

import itertools
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import zmq

from .. import __version__
from ..errors import one_line
from . import keys
from .addresses import DEFAULT, check_exposure
from .backend import Backend, Batch, Done, Failure, Item, Stepped
from .batching import Batcher, Work
from .coding import Decoded, Encoded, Shown, decode_image, encode_preview, encode_result
from .delivery import REDELIVERY_SECONDS, Delivery
from .ledger import Ledger, digest_of
from .mailbox import Mailbox
from .protocol import (
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
    decode,
    encode,
)
from .status import Status

logger = logging.getLogger(__name__)

#: Messages that libzmq holds for a client that does not read, or sends faster than they are handled. Images are large.
PEER_QUEUE = 16

#: Messages handled before the server looks after its works again.
TURN = 64

#: Seconds between two reports of progress on one request.
PROGRESS_SECONDS = 0.05

#: Threads that decode and encode images.
IMAGE_THREADS = 2


class Server:
    """Refines images for clients.

        ROUTER ─► check ─► ledger ─► queue ─► decode ─► gather ─► backend ─► encode ─► ROUTER
                   │ error    │ answered before        │ deadline

    backend      computes
    bind         ZeroMQ address, such as tcp://127.0.0.1:5555; port * is any free one: see `address`
    max_queue, max_batch, window  see `Batcher`
    keep         bytes of answers kept for retries
    server_keys  folder with server.key_secret; clients: folder of the public keys that may connect. Both or neither
    insecure     allows addresses that other machines can reach without keys
    status       (host, port) of the status page and metrics; none: no page
    drain        seconds that running work may take once the server is told to stop

    Raises ValueError where an address cannot be bound, or should not be.
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
        check_exposure(bind, status, server_keys, clients, insecure)
        self.instance = uuid.uuid4().hex
        self._backend, self._drain = backend, drain
        self._batcher = Batcher(max_queue, max_batch, window)
        self._ledger = Ledger(keep)
        self._running: dict[int, list[Work]] = {}
        self._numbers = itertools.count(1)
        self._encoding = 0
        self._batch_seconds = 0.5
        self._stop_by: float | None = None
        self._mailbox = Mailbox()
        self._pool = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="diffjscc-images")
        self._status = Status(backend.refiners, backend.memory, self.load)
        self._context = zmq.Context()
        self._doorkeeper = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._delivery = Delivery(self._socket, self._ledger)
        try:
            self._open(bind, server_keys, clients)
            self._page = self._status.serve(*status) if status else None
        except BaseException:
            self._close_sockets()
            raise

    def _open(self, bind: str, server_keys, clients) -> None:
        socket = self._socket
        socket.linger = 2000
        socket.sndhwm = socket.rcvhwm = PEER_QUEUE
        # A larger frame is not even received: its connection is closed.
        socket.maxmsgsize = MAX_IMAGE
        # Without it replies to a client that does not read would be lost without a word.
        socket.router_mandatory = True
        # Only to forget machines that are gone; over a slow network a large image may be long on its way.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 30_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 120_000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        if server_keys is not None:
            socket.curve_publickey, socket.curve_secretkey = keys.load_pair(os.path.join(server_keys, keys.SERVER + keys.SECRET))
            socket.curve_server = True
            self._doorkeeper = keys.Doorkeeper(self._context, clients) if clients is not None else None
        try:
            socket.bind(bind)
        except zmq.ZMQError as error:
            raise ValueError(f"cannot bind {bind}: {error}") from None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._socket.last_endpoint.rstrip(b"\0").decode()

    def load(self) -> tuple[int, int]:
        """(works that wait, works that are computed or encoded)."""
        return len(self._batcher), sum(map(len, self._running.values())) + self._encoding

    def stop(self) -> None:
        """Begins to drain: what runs is finished, what waits is refused, and `run` returns. From any thread or signal handler."""
        self._mailbox.put("stop")

    def run(self) -> None:
        """Serves until `stop`, and leaves nothing behind."""
        try:
            self._backend.start(self._mailbox.put)
            security = "CURVE" if self._doorkeeper else "no keys"
            logger.info("serving %s on %s (%s)", ", ".join(self._backend.refiners), self.address, security)
            if self._page:
                logger.info("status on %s", self._page.address)
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(self._mailbox.fileno(), zmq.POLLIN)
            while not self._drained():
                poller.poll(1000 * self._patience())
                self._turn()
            logger.info("drained, stopping")
        finally:
            self._backend.close(timeout=1.0)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._close_sockets()
            if self._page:
                self._page.close()
            self._mailbox.close()

    def _close_sockets(self) -> None:
        if self._doorkeeper:
            self._doorkeeper.close()
        self._socket.close()
        self._context.term()

    def _patience(self) -> float:
        """Seconds to wait for the next event."""
        now = time.monotonic()
        patience = 1.0
        if self._delivery:
            patience = REDELIVERY_SECONDS
        if len(self._running) < self._backend.slots:
            return min(patience, self._batcher.next_change(now))
        return patience

    def _turn(self) -> None:
        for _ in range(TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._receive(frames)
        for event in self._mailbox.take():
            self._handle(event)
        now = time.monotonic()
        self._ledger.trim(now)
        for work in self._batcher.take_expired(now):
            waited = now - work.arrived
            self._refuse(work, ProtocolError("deadline", f"deadline passed after {waited:.1f} s in the queue"))
        self._dispatch()
        self._delivery.send_again()

    # From clients.

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
                raise ProtocolError("bad-request", f"{message.type} is what a server says: expected refine, cancel or ping")
        except ProtocolError as error:
            self._status.count(error.code)
            logger.info("refused %s: %s", error.id or "a message", error.message)
            self._delivery.send(peer, encode(_error(error.id, error)))
        except Exception:
            # A fault of ours that one message brings out must not end everybody's service.
            logger.exception("a message could not be handled")
            self._status.count("internal")

    def _request(self, peer: bytes, user: str, request: Request) -> None:
        key, digest, now = (user, request.id), digest_of(request), time.monotonic()
        answer, work = self._ledger.answer(key), self._ledger.works.get(key)
        known = answer or work
        if known is not None and known.digest != digest:
            self._raise(request, "duplicate", f"id {request.id} was used for another request: choose a new one")
        if answer is not None:
            self._status.count("repeated")
            self._delivery.send(peer, key)
            return
        if work is not None:
            self._status.count("repeated")
            # The connection it came from may be gone: this one is answered, under the deadline that it gives.
            work.peer, work.deadline = peer, now + request.deadline
            work.request = replace(work.request, progress=request.progress, preview=request.preview)
            self._delivery.send(peer, encode(Accepted(id=request.id)))
            return
        if self._stop_by is not None:
            self._raise(request, "draining", "the server is about to stop: try again later")
        if request.refiner not in self._backend.refiners:
            refiners = ", ".join(self._backend.refiners)
            self._raise(
                request, "unknown-refiner", f"refiner {one_line(request.refiner, 60)!r} is not served here: there are {refiners}"
            )
        work = Work(key, digest, request, peer, now, now + request.deadline)
        if not self._batcher.admit(work):
            self._status.count("busy")
            batches = len(self._batcher) / self._batcher.max_batch / max(1, self._backend.slots)
            retry_after = min(30.0, max(0.05, self._batch_seconds * batches))
            message = f"{len(self._batcher)} requests wait already"
            self._delivery.send(peer, encode(Busy(id=request.id, message=message, retry_after=retry_after)))
            return
        self._ledger.open(work)
        self._delivery.send(peer, encode(Accepted(id=request.id)))
        if request.encoding == "raw":
            # Nothing to compute, and no image is copied.
            self._handle_decoded(decode_image(work))
        else:
            self._in_pool(decode_image, work)

    def _in_pool(self, function, work: Work, *arguments) -> None:
        """Has a thread compute an event."""
        self._pool.submit(lambda: self._mailbox.put(function(work, *arguments)))

    @staticmethod
    def _raise(request: Request, code: str, message: str) -> None:
        error = ProtocolError(code, message)
        error.id = request.id
        raise error

    def _cancel(self, peer: bytes, key: tuple[str, str]) -> None:
        work = self._ledger.works.get(key)
        if work is None:
            error = ProtocolError("unknown-id", f"nothing of id {key[1]} waits or runs here")
            error.id = key[1]
            raise error
        work.peer = peer
        self._batcher.take(key)
        self._refuse(work, ProtocolError("cancelled", "cancelled by the client"), keep=True)
        for number, works in self._running.items():
            if not any(self._ledger.works.get(work.key) is work for work in works):
                self._backend.stop(number)

    # To the backend and from it.

    def _dispatch(self) -> None:
        while len(self._running) < self._backend.slots and self._stop_by is None:
            works = self._batcher.take_batch(time.monotonic())
            if not works:
                return
            number, first = next(self._numbers), works[0].request
            items = tuple(Item(w.pixels, w.request.snr_db, w.request.seed, w.request.prompt) for w in works)
            previews = tuple(index for index, work in enumerate(works) if work.request.preview)
            self._running[number] = works
            self._status.started(len(works))
            self._backend.submit(Batch(number, first.refiner, first.steps, first.sampler, items, previews))

    def _handle(self, event) -> None:
        if isinstance(event, Decoded):
            self._handle_decoded(event)
        elif isinstance(event, Stepped):
            self._handle_stepped(event)
        elif isinstance(event, Done):
            self._handle_done(event)
        elif isinstance(event, Encoded):
            self._handle_encoded(event)
        elif isinstance(event, Shown):
            self._tell(event.work, event.step, event.frames)
        elif self._stop_by is None:
            self._begin_draining()
        else:
            logger.warning("told to stop again: not waiting for what runs")
            self._stop_by = 0.0

    def _handle_decoded(self, event: Decoded) -> None:
        if not self._is_open(event.work):
            return
        if isinstance(event.outcome, ProtocolError):
            self._batcher.take(event.work.key)
            self._refuse(event.work, event.outcome, keep=True)
        else:
            self._batcher.decoded(event.work.key, event.outcome, time.monotonic())

    def _handle_stepped(self, event: Stepped) -> None:
        now = time.monotonic()
        for index, work in enumerate(self._running.get(event.number, ())):
            elsewhere = event.items is not None and index not in event.items
            often = now - work.told < PROGRESS_SECONDS and event.step < event.steps
            if elsewhere or not work.request.progress or not self._is_open(work) or (often and index not in event.previews):
                continue
            work.told = now
            if index in event.previews:
                self._in_pool(encode_preview, work, event, event.previews[index])
            else:
                self._tell(work, event.step, encode(Progress(id=work.request.id, step=event.step, steps=event.steps)))

    def _tell(self, work: Work, step: int, progress: list) -> None:
        """Sends progress, but not after the answer.

        Previews are encoded by more than one thread: one that was overtaken is not worth sending.
        """
        if self._is_open(work) and step > work.step:
            work.step = step
            self._delivery.offer(work.peer, progress)

    def _handle_done(self, event: Done) -> None:
        works = self._running.pop(event.number)
        self._status.finished(event.seconds)
        self._batch_seconds += 0.2 * (event.seconds - self._batch_seconds)
        for work, outcome in zip(works, event.outcomes):
            if not self._is_open(work):
                continue
            if isinstance(outcome, Failure):
                # Where another attempt may help, the failure is no answer to keep.
                self._refuse(work, ProtocolError(outcome.code, outcome.message), keep=outcome.code == "failed")
            else:
                self._encoding += 1
                self._in_pool(encode_result, work, outcome)
                if self._page and self._status.wants_image():
                    self._pool.submit(self._status.show, work.request, work.pixels, outcome)

    def _handle_encoded(self, event: Encoded) -> None:
        self._encoding -= 1
        if not self._is_open(event.work):
            return
        if isinstance(event.outcome, ProtocolError):
            self._refuse(event.work, event.outcome, keep=True)
        else:
            self._finish(event.work, event.outcome, "ok", keep=True)

    # Back to clients.

    def _is_open(self, work: Work) -> bool:
        """Whether somebody still waits for it."""
        return self._ledger.works.get(work.key) is work

    def _refuse(self, work: Work, error: ProtocolError, keep: bool = False) -> None:
        logger.info("request %s: %s: %s", work.request.id, error.code, error.message)
        self._finish(work, encode(_error(work.request.id, error)), error.code, keep)

    def _finish(self, work: Work, frames: list, outcome: str, keep: bool) -> None:
        now = time.monotonic()
        self._ledger.close(work, frames, now, keep)
        self._status.count(outcome, now - work.arrived)
        self._delivery.send(work.peer, work.key if keep else frames)

    # The end.

    def _begin_draining(self) -> None:
        waiting, running = self.load()
        logger.info("draining: %d running to finish, %d waiting refused", running, waiting)
        self._stop_by = time.monotonic() + self._drain
        for work in self._batcher.take_all():
            self._refuse(work, ProtocolError("draining", "the server stops before it comes to this: try again later"))

    def _drained(self) -> bool:
        if self._stop_by is None:
            return False
        if time.monotonic() >= self._stop_by:
            for work in list(self._ledger.works.values()):
                self._refuse(work, ProtocolError("draining", "the server stops without finishing this: try again later"))
            return True
        return not self._ledger.works and not self._delivery


def _error(id: str | None, error: ProtocolError) -> Message:
    return Error(id=id, code=error.code, message=one_line(error.message), retryable=error.retryable)


def _user(frame: zmq.Frame) -> str:
    """The public key of the client that sent a frame; empty without CURVE. Clients cannot reach each other's requests."""
    try:
        return frame.get("User-Id")
    except (zmq.ZMQError, KeyError):
        return ""
