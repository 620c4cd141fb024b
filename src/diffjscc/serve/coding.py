# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding, encoding and hashing of images, in threads of their own. Each job's result is an event for the server."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import one_line
from . import images
from .backend import Stepped
from .deduplication import request_digest
from .protocol import Frames, Progress, Refusal, Request, Result, encode
from .work import Client, Work

logger = logging.getLogger(__name__)

#: Threads for images of any size, and threads for small ones only, which therefore never wait for large ones.
THREADS, SMALL_THREADS = 2, 1

#: Images of up to this many bytes, as pixels, are small: they take a few milliseconds.
SMALL_BYTES = 3 << 20


@dataclass(frozen=True)
class Hashed:
    """A large request, and its digest."""

    peer: bytes
    client: Client
    request: Request
    digest: bytes


@dataclass(frozen=True)
class Decoded:
    """A request's pixels, or why they could not be decoded; None where nobody waited for them any more."""

    work: Work
    outcome: np.ndarray | Refusal | None


@dataclass(frozen=True)
class Encoded:
    """The frames of a result, or why the refined image could not be encoded; None where nobody waited for it any more."""

    work: Work
    outcome: Frames | Refusal | None


@dataclass(frozen=True)
class EncodedPreview:
    """The frames of a progress message with a preview of ``step``."""

    work: Work
    step: int
    frames: Frames


CodingEvent = Hashed | Decoded | Encoded | EncodedPreview


class Coders:
    """Threads that run jobs and report their results. Daemons: a job that runs does not keep the process alive.

    report  called with each job's result, in the job's thread

    Jobs handle their own errors. One that raises all the same is logged, and its result is missing.
    """

    def __init__(self, report: Callable[[CodingEvent], object]):
        self._report = report
        self._jobs: dict[bool, deque[Callable[[], CodingEvent | None]]] = {True: deque(), False: deque()}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(number < SMALL_THREADS,), daemon=True, name=f"diffjscc-images-{number}")
            for number in range(SMALL_THREADS + THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], CodingEvent | None], size: int) -> None:
        """Runs a job on an image of ``size`` bytes of pixels as soon as a thread is free; oldest first."""
        with self._changed:
            self._jobs[size <= SMALL_BYTES].append(job)
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Drops the jobs that have not begun."""
        with self._changed:
            self._closed = True
            for jobs in self._jobs.values():
                jobs.clear()
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self, small_only: bool) -> None:
        while (job := self._next(small_only)) is not None:
            try:
                if (event := job()) is not None:
                    self._report(event)
            except Exception:
                logger.exception("a job on an image failed")
            # Otherwise it would keep the image in memory until the next job.
            del job

    def _next(self, small_only: bool) -> Callable[[], CodingEvent | None] | None:
        small, large = self._jobs[True], self._jobs[False]
        with self._changed:
            while not self._closed:
                if small:
                    return small.popleft()
                if large and not small_only:
                    return large.popleft()
                self._changed.wait()
        return None


def hash_request(peer: bytes, client: Client, request: Request) -> Hashed:
    return Hashed(peer, client, request, request_digest(request))


def decode_image(work: Work, now: Callable[[], float] = time.monotonic) -> Decoded:
    """Stops where the request is cancelled, or its deadline passes, meanwhile."""
    request = work.request
    try:
        pixels = images.to_pixels(
            request.image, request.width, request.height, request.encoding, lambda: work.is_open and now() < work.deadline
        )
        return Decoded(work, pixels)
    except images.Abandoned:
        return Decoded(work, None)
    except Exception as error:
        # Whatever error a damaged file causes in the decoder, the client gets a reply.
        return Decoded(work, Refusal("bad-image", one_line(error)))


def encode_result(work: Work, pixels: np.ndarray) -> Encoded:
    request = work.request
    if not work.is_open:
        return Encoded(work, None)
    try:
        image = images.to_bytes(pixels, request.reply_encoding)
        height, width = pixels.shape[:2]
        seconds = time.monotonic() - work.arrived
        result = Result(id=request.id, width=width, height=height, encoding=request.reply_encoding, seconds=seconds, image=image)
        return Encoded(work, encode(result))
    except Exception as error:
        return Encoded(work, Refusal("failed", one_line(error)))


def encode_preview(work: Work, event: Stepped, pixels: np.ndarray) -> EncodedPreview | None:
    if not work.is_open:
        return None
    height, width = pixels.shape[:2]
    progress = Progress(
        id=work.request.id,
        step=event.step,
        steps=event.steps,
        width=width,
        height=height,
        encoding="jpeg",
        image=images.to_bytes(pixels, "jpeg"),
    )
    return EncodedPreview(work, event.step, encode(progress))
