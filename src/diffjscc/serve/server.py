# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: one thread that owns the socket and only passes messages and events on. Other threads compute and code images."""

from __future__ import annotations

import itertools
import logging
import math
import os
import statistics
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import zmq
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .. import __version__
from ..errors import one_line
from . import coding
from .addresses import DEFAULT, check_exposure, is_local, is_loopback
from .backend import Backend, Batch, Beat, Broken, Done, Item, Stepped
from .batching import Batcher
from .coding import Coders, Decoded, Encoded, EncodedPreview, Hashed
from .deduplication import DeduplicationCache, request_digest
from .event_queue import EventQueue
from .health import Health, Phase, Supervisor
from .logs import Limited
from .metrics import Load, Metrics
from .page import Gallery, render
from .protocol import Accepted, Busy, Cancel, Error, Frames, Ping, Pong, Progress, Refusal, Request, decode, encode
from .router import Cached, Peer, Router
from .web import Answer, WebServer
from .work import State, Work

logger = logging.getLogger(__name__)

#: Messages that are received in a row before events and deadlines are handled again.
MESSAGES_IN_A_ROW = 64

#: The least seconds between two progress messages for one request.
PROGRESS_SECONDS = 0.05

#: Images up to this many bytes are hashed in the server's thread, in 2 ms; larger ones elsewhere. And bytes of images that may
#: wait to be hashed, for each client.
HASHED_HERE, MAX_HASHING = 1 << 20, 1 << 28

#: Seconds after which a client may be asked to try again: it does not learn when there is room earlier.
RETRY_SECONDS = (0.05, 2.0)

#: Images that are being decoded or wait for a thread that decodes: no more than there are threads, so that the others can still
#: be cancelled, expire, or be overtaken.
DECODING = coding.THREADS + coding.SMALL_THREADS

#: Seconds that clients which do not read are given, once everything is answered, before the server ends.
UNREAD_SECONDS = 1.0

#: Seconds that closing may take altogether.
CLOSE_SECONDS = 0.3


class ServerFailed(RuntimeError):
    """The server cannot go on: the reason, one line. Whoever started it should start it again."""


@dataclass(frozen=True)
class Stop:
    """The event by which the server is told to stop."""


@dataclass(frozen=True)
class Loaded:
    """The backend is ready, or cannot be."""

    error: Exception | None


@dataclass(eq=False)
class Running:
    """A batch in the backend: its items, and when it last gave a sign of life."""

    works: list[Work]
    refiner: str
    heard: float


@dataclass(eq=False)
class Hashing:
    """A large request whose digest is being computed. ``cancelled``: whether it was cancelled meanwhile."""

    request: Request
    peer: Peer
    cancelled: bool = False


Event = Stepped | Beat | Done | Broken | Hashed | Decoded | Encoded | EncodedPreview | Loaded | Stop


class Server:
    """Refines images for clients.

        ROUTER ─► check ─► hash ─► deduplicate ─► queue ─► decode ─► batch ─► backend ─► encode ─► ROUTER
                    │ error          │ cached reply │ busy, deadline has passed

    backend      computes
    bind         ZeroMQ address, such as tcp://127.0.0.1:5555; port * is any free one: see `address`
    max_queue, max_batch, window  see `Batcher`
    keep         bytes of replies cached for retries
    server_keys  folder with server.key_secret; clients: folder of the public keys that may connect. Both or neither
    insecure     allows an address that other machines can reach without keys
    status       (host, port) of the status page and metrics; None: no page
    public_status  allows a status address that other machines can reach. The page then shows no images
    status_names   host names of the status page, see `WebServer`
    images       whether the page shows images
    drain        seconds that running batches may still take once the server is told to stop
    watchdog     seconds without a sign of life from a batch after which the server is not ready; after twice as many it fails

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
        public_status: bool = False,
        status_names: tuple[str, ...] = (),
        images: bool = True,
        drain: float = 60.0,
        watchdog: float = 600.0,
    ):
        if keep < 0:
            raise ValueError(f"keep = {keep}: must be at least 0 bytes")
        if not 0 <= drain < math.inf:
            raise ValueError(f"drain = {drain}: must be at least 0 seconds, and finite")
        if not 0 < watchdog < math.inf:
            raise ValueError(f"watchdog = {watchdog}: must be above 0 seconds, and finite")
        check_exposure(bind, status, server_keys, clients, insecure, public_status)
        if insecure and not is_local(bind):
            logger.warning("%s can be reached from other machines, and anybody there can use this server: it has no keys", bind)
        self.instance = uuid.uuid4().hex
        self.drain = drain
        self._backend, self._watchdog = backend, watchdog
        self._batcher = Batcher(max_queue, max_batch, window)
        self._cache = DeduplicationCache(keep)
        self._running: dict[int, Running] = {}
        self._numbers = itertools.count(1)
        self._hashing: dict[tuple[str, str, bytes], Hashing] = {}
        self._decoding = self._encoding = 0
        self._batch_seconds: deque[float] = deque([0.5], maxlen=9)
        self._stop_by, self._answered_at = math.inf, math.inf
        self._looked_at = 0.0
        self._events: EventQueue[Event] = EventQueue()
        self._log = Limited(logger)
        self._health = Health()
        self._supervisor = Supervisor(self._health)
        self._metrics = Metrics(backend.refiners, self.load, self._health)
        self._gallery = Gallery(images and status is not None and is_loopback(status[0]))
        self._router = Router(bind, server_keys, clients, self._cache, self._metrics.refused)
        self._page: WebServer | None = None
        try:
            if status is not None:
                self._page = WebServer(*status, self._pages(), status_names)
        except BaseException:
            self._router.close()
            raise
        self._coders = Coders(self._events.put)

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._router.address

    @property
    def page(self) -> str | None:
        """Where the status page is."""
        return self._page.address if self._page else None

    def load(self) -> Load:
        """What there is to do. Any thread may ask."""
        works = list(self._cache.works.values())
        queued = len(self._batcher)
        return Load(
            queued=queued,
            queue_limit=self._batcher.max_queue,
            queued_bytes=self._batcher.bytes,
            running=max(0, len(works) - queued),
            batches=len(self._running),
            workers=self._backend.slots if self._health.phase is not Phase.LOADING else 0,
            connections=self._router.connections(),
            devices=self._backend.memory(),
            loaded=self._backend.loaded(),
            clients=dict(Counter(work.client.name for work in works)),
        )

    def stop(self) -> None:
        """Begins to drain: running work is finished, waiting and new work is refused, then `run` returns.

        Called a second time, running work is refused too. Any thread, or a signal handler, may call it.
        """
        self._events.put(Stop())

    def close(self) -> None:
        """Releases what a server holds that was made and never run."""
        self._coders.close(CLOSE_SECONDS)
        self._router.close()
        if self._page:
            self._page.close()
        self._events.close()

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serves until `stop`; then closes the backend and all sockets. ``on_ready`` is called once the backend is ready.

        Raises `ServerFailed` where the backend breaks or hangs, and ValueError where it cannot be made ready.
        """
        self._on_ready = on_ready
        threading.Thread(target=self._start_backend, daemon=True, name="diffjscc-loader").start()
        try:
            logger.info("listening on %s", self.address)
            if self._page:
                logger.info("status on %s", self._page.address)
            poller = zmq.Poller()
            for socket in (self._router.socket, self._events.fileno()):
                poller.register(socket, zmq.POLLIN)
            while not self._has_ended():
                poller.poll(math.ceil(1000 * self._seconds_to_wait()))
                self._turn()
            logger.info("drained, stopping")
        except ServerFailed as error:
            self._health.failure = str(error)
            logger.error("%s", error)
            self._refuse_all("lost", f"{error}: the server ends, try again later")
            self._router.send_again()
            raise
        finally:
            self._health.phase = Phase.STOPPED
            self._supervisor.tell(STOPPING="1")
            # Both wait for each other's data to be sent, or for a thread to notice: at the same time.
            closing = threading.Thread(target=self._backend.close, args=(CLOSE_SECONDS,), daemon=True)
            closing.start()
            self.close()
            closing.join()

    def _start_backend(self) -> None:
        try:
            self._backend.start(self._events.put)
        except Exception as error:
            self._events.put(Loaded(error))
        else:
            self._events.put(Loaded(None))

    def _seconds_to_wait(self) -> float:
        """How long to wait for the next message or event."""
        seconds = min(1.0, self._router.seconds_to_wait())
        if self._health.phase is Phase.DRAINING:
            seconds = min(seconds, 0.05)
        if self._can_compute():
            return min(seconds, self._batcher.next_change(time.monotonic()))
        return seconds

    def _can_compute(self) -> bool:
        return self._health.phase is Phase.SERVING and self._backend.largest() > 0

    def _turn(self) -> None:
        """Handles everything that has happened, and begins what can be begun."""
        self._health.turn()
        self._supervisor.beat()
        for _ in range(MESSAGES_IN_A_ROW):
            received = self._router.receive()
            if received is None:
                # Only then is everything read that is complete.
                self._router.watch_connections()
                break
            self._receive(*received)
        for event in self._events.take():
            self._handle(event)
        now = time.monotonic()
        self._cache.evict(now)
        for work in self._batcher.take_expired(now):
            self._refuse(work, Refusal("deadline", f"deadline passed after {now - work.arrived:.1f} s in the queue"))
        self._decode()
        self._dispatch()
        self._router.send_again()
        if now - self._looked_at >= 1.0:
            self._looked_at = now
            self._router.end_removed()
            self._watch(now)

    # Messages from clients.

    def _receive(self, peer: Peer, frames: list[zmq.Frame]) -> None:
        if not self._router.is_allowed(peer):
            return
        try:
            message = decode([frame.buffer for frame in frames])
            if isinstance(message, Request):
                self._take_request(peer, message)
            elif isinstance(message, Cancel):
                self._cancel(peer, message.id)
            elif isinstance(message, Ping):
                self._router.send(peer.id, encode(self._pong()))
            else:
                raise Refusal("bad-request", f"{message.type} is a message of servers: expected refine, cancel or ping")
        except Refusal as refusal:
            self._metrics.bad_message(refusal.code)
            self._log.info(
                peer.client.name, "%s sent what is refused: %s", peer.client.name, refusal.message, client=peer.client.name
            )
            self._router.send(peer.id, _error(refusal.id, refusal))
        except Exception:
            # A bug that one message triggers must not end the service for all clients.
            logger.exception("a message of %s could not be handled", peer.client.name)
            self._metrics.bad_message("internal")

    def _pong(self) -> Pong:
        works, queued = len(self._cache.works), len(self._batcher)
        return Pong(
            version=__version__,
            instance=self.instance,
            refiners=self._backend.refiners,
            queued=queued,
            running=max(0, works - queued),
        )

    def _take_request(self, peer: Peer, request: Request) -> None:
        if len(request.image) <= HASHED_HERE:
            self._request(peer, request, request_digest(request))
            return
        client = peer.client
        hashed = sum(len(other.request.image) for other in self._hashing.values() if other.peer.client.share == client.share)
        if hashed > MAX_HASHING:
            self._busy(peer, request, f"{hashed >> 20} MiB of this client's images are still being read")
            return
        # By connection too: a retry may arrive before the request itself is hashed.
        self._hashing[(client.user, request.id, peer.id)] = Hashing(request, peer)
        self._coders.submit(partial(coding.hash_request, peer.id, client, request), len(request.image))

    def _handle_hashed(self, event: Hashed) -> None:
        hashing = self._hashing.pop((event.client.user, event.request.id, event.peer), None)
        if hashing is not None and not hashing.cancelled:
            try:
                self._request(hashing.peer, event.request, event.digest)
            except Refusal as refusal:
                self._metrics.bad_message(refusal.code)
                self._router.send(event.peer, _error(event.request.id, refusal))

    def _request(self, peer: Peer, request: Request, digest: bytes) -> None:
        key, now = (peer.client.user, request.id), time.monotonic()
        reply, work = self._cache.reply(key), self._cache.works.get(key)
        known = reply or work
        if known is not None and known.digest != digest:
            raise Refusal("duplicate", f"id {request.id} was used for another request: choose a new one", request.id)
        if reply is not None:
            self._count("repeated", request, peer)
            self._router.send_cached(peer.id, key, request.id)
            return
        if work is not None:
            self._count("repeated", request, peer)
            # Its first connection may be gone. The retry's deadline is the client's current one.
            work.asked_by(peer.id)
            self._batcher.postpone(work, now + request.deadline)
            work.request = replace(work.request, progress=request.progress, preview=request.preview)
            self._router.send(peer.id, encode(Accepted(id=request.id)))
            return
        if self._health.phase is Phase.DRAINING:
            self._count("draining", request, peer)
            refusal = Refusal("draining", "the server is about to stop: try again later")
            self._router.send(peer.id, _error(request.id, refusal))
            return
        if request.refiner not in self._backend.refiners:
            refiners = ", ".join(self._backend.refiners)
            name = one_line(request.refiner, 60)
            raise Refusal("unknown-refiner", f"refiner {name!r} is not served here: there are {refiners}", request.id)
        work = Work(key, digest, request, peer.client, now, now + request.deadline, [peer.id])
        leaving = self._batcher.admit(work)
        if leaving is None:
            waiting = self._batcher.waiting_of(peer.client.share)
            self._busy(peer, request, f"{len(self._batcher)} requests wait already, {waiting} of them this client's")
            return
        for other in leaving:
            self._push_out(other)
        self._cache.add(work)
        self._router.send(peer.id, encode(Accepted(id=request.id)))
        if request.encoding == "raw":
            # Takes no time: the pixels are a view of the message.
            self._handle_decoded(coding.decode_image(work))

    def _busy(self, peer: Peer, request: Request, message: str) -> None:
        self._count("busy", request, peer)
        self._router.send(peer.id, encode(Busy(id=request.id, message=message, retry_after=self._retry_after())))

    def _push_out(self, work: Work) -> None:
        """Ends a request that has to leave the queue for another client's with "busy"."""
        self._metrics.count("busy", work.request.refiner, work.client)
        message = "another client had less than its share of the queue"
        self._finish(work, encode(Busy(id=work.request.id, message=message, retry_after=self._retry_after())), keep=False)

    def _retry_after(self) -> float:
        """Seconds until about half of the queue is done; never long, because one slow batch says little about the next."""
        batches = 0.5 * len(self._batcher) / self._batcher.max_batch / max(1, self._backend.slots)
        return min(RETRY_SECONDS[1], max(RETRY_SECONDS[0], statistics.median(self._batch_seconds) * batches))

    def _count(self, outcome: str, request: Request, peer: Peer) -> None:
        self._metrics.count(outcome, request.refiner, peer.client)

    def _cancel(self, peer: Peer, id: str) -> None:
        key = (peer.client.user, id)
        refusal = Refusal("cancelled", "cancelled by the client", id)
        hashing = [other for (user, name, _), other in self._hashing.items() if (user, name) == key and not other.cancelled]
        for other in hashing:
            other.cancelled = True
        work = self._cache.works.get(key)
        if work is not None:
            work.asked_by(peer.id)
            self._batcher.take(key)
            self._refuse(work, refusal, keep=True)
            for number, running in self._running.items():
                if work in running.works and not any(other.is_open for other in running.works):
                    self._backend.stop(number)
        elif hashing:
            self._count("cancelled", hashing[0].request, peer)
            self._router.send(peer.id, _error(id, refusal))
        elif self._cache.reply(key) is None:
            raise Refusal("unknown-id", f"nothing of id {id} waits or runs here", id)

    # To the coders and the backend.

    def _decode(self) -> None:
        """Gives images to the threads that decode, as many as they can begin at once."""
        while self._decoding < DECODING and self._health.phase is not Phase.DRAINING:
            small_only = self._decoding >= DECODING - coding.SMALL_THREADS
            work = self._batcher.next_to_decode(coding.SMALL_BYTES if small_only else 1 << 62)
            if work is None:
                return
            self._decoding += 1
            self._coders.submit(partial(coding.decode_image, work), work.size)

    def _dispatch(self) -> None:
        while self._can_compute():
            now, largest = time.monotonic(), self._backend.largest()
            works = self._batcher.take_batch(now, None if largest == math.inf else int(largest))
            if not works:
                return
            number, first = next(self._numbers), works[0].request
            items = tuple(
                Item(work.pixels, work.request.snr_db, work.request.seed, work.request.prompt)
                for work in works
                # True of every item in a batch.
                if work.pixels is not None
            )
            previews = tuple(index for index, work in enumerate(works) if work.request.preview)
            for work in works:
                work.state = State.RUNNING
            self._running[number] = Running(works, first.refiner, now)
            self._metrics.started_batch(first.refiner, [now - work.arrived for work in works])
            self._backend.submit(Batch(number, first.refiner, first.steps, first.sampler, items, previews))

    # Events.

    def _handle(self, event: Event) -> None:
        if isinstance(event, Decoded):
            self._decoding -= 1
            self._handle_decoded(event)
        elif isinstance(event, Stepped):
            self._handle_stepped(event)
        elif isinstance(event, Beat):
            self._hear(event.number)
        elif isinstance(event, Done):
            self._handle_done(event)
        elif isinstance(event, Hashed):
            self._handle_hashed(event)
        elif isinstance(event, Encoded):
            self._handle_encoded(event)
        elif isinstance(event, EncodedPreview):
            self._send_progress(event.work, event.step, event.frames)
        elif isinstance(event, Loaded):
            self._handle_loaded(event)
        elif isinstance(event, Broken):
            raise ServerFailed(event.reason)
        elif self._health.phase is not Phase.DRAINING:
            self._begin_draining()
        else:
            logger.warning("told to stop again: not waiting for what runs")
            self._stop_by = 0.0

    def _handle_loaded(self, event: Loaded) -> None:
        if event.error is not None:
            raise event.error
        if self._health.phase is not Phase.LOADING:
            return
        self._health.phase = Phase.SERVING
        self._on_ready()
        security = "CURVE" if self._router.has_keys else "no keys"
        refiners = ", ".join(self._backend.refiners)
        logger.info("serving %s on %s (%s)", refiners, self.address, security)
        self._supervisor.tell(READY="1", STATUS=f"serving {refiners} on {self.address}")

    def _handle_decoded(self, event: Decoded) -> None:
        work = event.work
        if not work.is_open:
            return
        if event.outcome is None:
            # Given up at a deadline that a retry may have postponed since.
            work.state = State.QUEUED
        elif isinstance(event.outcome, Refusal):
            self._batcher.take(work.key)
            self._refuse(work, event.outcome, keep=True)
        else:
            self._batcher.decoded(work.key, event.outcome, time.monotonic())

    def _hear(self, number: int) -> None:
        """Notes a sign of life of a batch."""
        if (running := self._running.get(number)) is not None:
            running.heard = time.monotonic()

    def _handle_stepped(self, event: Stepped) -> None:
        now = time.monotonic()
        self._hear(event.number)
        running = self._running.get(event.number)
        for index, work in enumerate(running.works if running else ()):
            other = event.items is not None and index not in event.items
            too_soon = now - work.reported < PROGRESS_SECONDS and event.step < event.steps
            if other or not work.request.progress or not work.is_open or (too_soon and index not in event.previews):
                continue
            work.reported = now
            if index in event.previews:
                self._coders.submit(partial(coding.encode_preview, work, event, event.previews[index]), work.size)
            else:
                progress = Progress(id=work.request.id, step=event.step, steps=event.steps)
                self._send_progress(work, event.step, encode(progress))

    def _send_progress(self, work: Work, step: int, frames: Frames) -> None:
        """Sends a progress message, unless the final reply or a later step was sent already.

        Previews are encoded by several threads, so that a later one may be ready first.
        """
        if work.is_open and step > work.step:
            work.step = step
            self._router.offer(work.askers, frames)

    def _handle_done(self, event: Done) -> None:
        running = self._running.pop(event.number)
        self._metrics.finished_batch(running.refiner, event.seconds)
        self._batch_seconds.append(event.seconds)
        for work, outcome in zip(running.works, event.outcomes):
            if not work.is_open:
                continue
            if isinstance(outcome, Refusal):
                # Other failures are not cached, because a retry may succeed.
                self._refuse(work, outcome, keep=outcome.code == "failed")
                continue
            self._encoding += 1
            work.state = State.ENCODING
            self._coders.submit(partial(coding.encode_result, work, outcome), work.size)
            if work.pixels is not None and self._gallery.wants_image():
                show = partial(self._gallery.show, work.request, work.client.name, work.pixels, outcome)
                self._coders.submit(show, work.size)

    def _handle_encoded(self, event: Encoded) -> None:
        self._encoding -= 1
        work = event.work
        if not work.is_open or event.outcome is None:
            return
        if isinstance(event.outcome, Refusal):
            self._refuse(work, event.outcome, keep=True)
        else:
            seconds = time.monotonic() - work.arrived
            self._metrics.succeeded(work.request.refiner, work.client, seconds, work.request.width * work.request.height)
            self._finish(work, event.outcome, keep=True)

    # Replies to clients.

    def _refuse(self, work: Work, refusal: Refusal, keep: bool = False) -> None:
        name = work.client.name
        self._log.info(
            f"{name} {refusal.code}",
            "request %s of %s: %s: %s",
            work.request.id,
            name,
            refusal.code,
            refusal.message,
            client=name,
            code=refusal.code,
        )
        self._metrics.count(refusal.code, work.request.refiner, work.client, refusal.message)
        self._finish(work, _error(work.request.id, refusal), keep)

    def _finish(self, work: Work, frames: Frames, keep: bool) -> None:
        self._cache.finish(work, frames, time.monotonic(), keep)
        self._router.answer(work.askers, Cached(work.key, work.request.id) if keep else frames)

    def _refuse_all(self, code: str, message: str) -> None:
        for work in list(self._cache.works.values()):
            self._batcher.take(work.key)
            self._refuse(work, Refusal(code, message))

    # The end, and what should not happen.

    def _watch(self, now: float) -> None:
        """Notices batches that give no sign of life."""
        silent = max((now - running.heard for running in self._running.values()), default=0.0)
        if silent > 2 * self._watchdog:
            raise ServerFailed(f"the refiner has given no sign of life for {silent:.0f} s")
        trouble = f"the refiner has given no sign of life for {silent:.0f} s" if silent > self._watchdog else ""
        if not trouble and self._health.phase is Phase.SERVING and self._backend.slots == 0:
            trouble = "no worker can compute: they are being replaced"
        if trouble and not self._health.trouble:
            logger.error("%s: not ready", trouble)
        elif self._health.trouble and not trouble:
            logger.info("images are computed again: ready")
        self._health.trouble = trouble

    def _begin_draining(self) -> None:
        works = self._cache.works.values()
        waiting = self._batcher.take_all()
        logger.info("draining: %d running to finish, %d waiting refused", len(works) - len(waiting), len(waiting))
        self._health.phase = Phase.DRAINING
        self._supervisor.tell(STOPPING="1", STATUS="draining")
        self._stop_by = time.monotonic() + self.drain
        for work in waiting:
            self._refuse(work, Refusal("draining", "the server stops before it comes to this: try again later"))

    def _has_ended(self) -> bool:
        if self._health.phase is not Phase.DRAINING:
            return False
        now = time.monotonic()
        if now >= self._stop_by:
            self._refuse_all("draining", "the server stops without finishing this: try again later")
            return True
        if self._cache.works or self._hashing:
            self._answered_at = math.inf
            return False
        self._answered_at = min(self._answered_at, now)
        return not self._router.has_undelivered or now - self._answered_at >= UNREAD_SECONDS

    # The status page.

    def _pages(self) -> dict[str, Callable[[], Answer]]:
        def probe(state: Callable[[], str]) -> Answer:
            trouble = state()
            return (503, f"{trouble}\n".encode(), "text/plain; charset=utf-8") if trouble else (200, b"ok\n", "text/plain")

        def page() -> Answer:
            html = render(self._metrics, self._health, self.load, self._backend.refiners, self._gallery)
            return 200, html.encode(), "text/html; charset=utf-8"

        return {
            "/": page,
            "/metrics": lambda: (200, generate_latest(self._metrics.registry), CONTENT_TYPE_LATEST),
            "/livez": lambda: probe(self._health.live),
            "/readyz": lambda: probe(self._health.ready),
            "/healthz": lambda: probe(self._health.ready),
        }


def _error(id: str | None, refusal: Refusal) -> Frames:
    return encode(Error(id=id, code=refusal.code, message=one_line(refusal.message), retryable=refusal.retryable))
