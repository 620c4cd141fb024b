# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole preparation: many images at once, stored in the order of the shuffled list."""

from __future__ import annotations

import errno
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ...errors import one_line
from .convert import Converted, convert
from .download import Downloader, TryAgain
from .lists import Row, ShuffledList, list_source
from .options import Options, is_address
from .rejection import Rejected
from .shards import Output

#: Images in preparation or waiting for their turn, per worker. More of them bridge longer retries of a single image.
_AHEAD = 8
#: After so many images in a row that could not be had, or that were not used for any reason, something else is wrong.
_MAX_FAILED, _MAX_SKIPPED = 100, 1000
#: So many other images are asked for before the server, and not one image, is taken for unreachable.
_PROBES = 3

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Progress:
    """What a caller is told: ``done`` of ``total`` units (None: not known), and what the unit is.

    stage    "download list" and "shuffle list" (bytes), "images" (images)
    skipped  images passed over
    """

    stage: str
    done: int
    total: int | None
    skipped: int = 0


@dataclass(frozen=True)
class Summary:
    """What a folder holds now.

    images   stored, in ``shards`` shards of together ``bytes`` bytes
    skipped  images passed over, by reason
    missing  images that were wanted, and that the list did not have
    seconds  that this run took
    """

    folder: str
    images: int
    shards: int
    bytes: int
    skipped: dict[str, int]
    missing: int
    seconds: float

    def __str__(self) -> str:
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items()) or "none"
        return f"{self.folder}: {_stored(self.images, self.shards)}, {self.bytes / 1e6:.1f} MB; skipped: {skipped}"


def prepare(folder: str | Path, options: Options, on_progress: Callable[[Progress], None] = lambda progress: None) -> Summary:
    """Prepares Open Images in ``folder``, or goes on with it; see `diffjscc.train.openimages`.

    Raises ValueError in one line where the folder was begun with other options, where the list is not one of Open Images, where
    the network is gone, or where the disk is full. Finished shards stay, and the same call goes on after them.
    """
    begun = time.monotonic()
    output = Output(Path(folder), options)
    try:
        with output:
            if not output.complete:
                _fill(output, options, on_progress)
            shards, skipped, images = output.manifest["shards"], output.skipped, output.images
    except OSError as error:
        raise ValueError(_disk_error(error, output)) from None
    return Summary(
        folder=str(folder),
        images=images,
        shards=len(shards),
        bytes=sum(shard["bytes"] for shard in shards),
        skipped=skipped,
        missing=max(0, (options.count or 0) - images),
        seconds=round(time.monotonic() - begun, 3),
    )


def _fill(output: Output, options: Options, on_progress: Callable[[Progress], None]) -> None:
    downloader = Downloader(options.timeout, options.retries, options.backoff)
    shuffled = _shuffled_list(output, options, downloader, on_progress)
    pool = ThreadPoolExecutor(options.workers, thread_name_prefix="openimages")
    try:
        _Filling(output, options, downloader, shuffled, pool).run(on_progress)
    finally:
        downloader.stop()
        pool.shutdown(cancel_futures=True)


def _shuffled_list(output: Output, options: Options, downloader: Downloader, on_progress) -> ShuffledList:
    source, order = list_source(options), output.work / "order"
    if ShuffledList.exists(order):
        shuffled = ShuffledList(order)
    else:
        path = Path(source)
        if is_address(source):
            path = output.work / "list.csv"
            if not path.exists():
                downloader.save(source, path, lambda done, total: on_progress(Progress("download list", done, total)))
        size = path.stat().st_size
        shuffled = ShuffledList.build(order, path, source, options, lambda done: on_progress(Progress("shuffle list", done, size)))
        if is_address(source):
            path.unlink()
    output.set_list(source, shuffled.sha256, shuffled.rows, shuffled.ignored)
    return shuffled


@dataclass(frozen=True)
class _Candidate:
    """One image in preparation: its row, and the position of the shuffled list after it."""

    row: Row
    position: int
    url: str


class _Filling:
    """Keeps the workers busy, and stores what they prepare in the order of the list.

        shuffled list ─► window of futures (workers × 8) ─► stored or skipped, oldest first

    The window is never longer than the images that are still missing, so none is downloaded in vain.
    """

    def __init__(self, output: Output, options: Options, downloader: Downloader, shuffled: ShuffledList, pool: ThreadPoolExecutor):
        self._output, self._options, self._downloader, self._pool = output, options, downloader, pool
        self._rows, self._position = shuffled.rows, output.position
        self._candidates: Iterator[_Candidate] = (
            _Candidate(row, position, self._url(row)) for position, row in shuffled.candidates(output.position)
        )
        self._window: deque[tuple[_Candidate, Future[tuple[Converted, str]]]] = deque()
        #: Address of the last image that was stored in this run.
        self._known: str | None = None
        #: Images since the last one that was stored: failed, and skipped for any reason.
        self._failed = self._skipped = 0

    def run(self, on_progress: Callable[[Progress], None]) -> None:
        """Raises ValueError where the network is gone or no images can be had."""
        self._report(on_progress)
        while self._missing > 0:
            room = min(self._missing, self._options.workers * _AHEAD) - len(self._window)
            for candidate in islice(self._candidates, max(0, room)):
                self._window.append((candidate, self._pool.submit(self._prepare, candidate)))
            if not self._window:
                break
            self._store(*self._window.popleft())
            self._report(on_progress)
        if not self._output.images:
            skipped = ", ".join(f"{count} {reason}" for reason, count in self._output.skipped.items())
            raise ValueError(
                f"none of the {self._rows} images of the list could be used ({skipped}): see {self._output.folder / 'skipped.csv'}"
            )
        self._output.finish(self._position)

    @property
    def _missing(self) -> int:
        return (self._options.count or self._rows) - self._output.images

    def _url(self, row: Row) -> str:
        return row.original_url if self._options.originals else f"{self._options.bucket}/{self._options.split}/{row.image_id}.jpg"

    def _prepare(self, candidate: _Candidate, retries: int | None = None) -> tuple[Converted, str]:
        """In a worker: the image, and the MD5 of what was downloaded. Raises `Rejected`."""
        data = self._downloader.get(candidate.url, lambda data: self._verify(candidate.row, data), retries)
        options = self._options
        image = convert(data, candidate.row.rotation, options.min_side, options.resize, options.format, options.quality)
        return image, _md5(data)

    def _verify(self, row: Row, data: bytes) -> None:
        """Originals must have the list's MD5. The bucket's copies were reduced; those that were not have the original's size."""
        if row.original_md5 and (self._options.originals or len(data) == row.original_size) and _md5(data) != row.original_md5:
            raise TryAgain("checksum", f"MD5 is {_md5(data)}, the list says {row.original_md5}")

    def _store(self, candidate: _Candidate, future: Future[tuple[Converted, str]]) -> None:
        self._position = candidate.position
        try:
            try:
                image, md5 = future.result()
            except Rejected as rejection:
                if rejection.reason != "unreachable":
                    raise
                image, md5 = self._ask_again(candidate, rejection)
        except Rejected as rejection:
            self._output.skip(candidate.row, candidate.url, rejection.reason, rejection.detail)
            self._check_streak(candidate, rejection)
            return
        self._known, self._failed, self._skipped = candidate.url, 0, 0
        self._output.add(candidate.row, candidate.position, candidate.url, md5, image)

    def _ask_again(self, candidate: _Candidate, rejection: Rejected) -> tuple[Converted, str]:
        """Once more for an image without an answer, now that the server does answer for another one.

        So an image is only skipped when it fails while others do not, and what comes out does not depend on when the network
        was away. Raises ValueError where the server does not answer at all, `Rejected` where the image alone is at fault.
        """
        if any(self._downloader.answers(url) for url in islice(self._others(), _PROBES)):
            return self._prepare(candidate, retries=0)
        attempts = 1 + self._options.retries
        raise ValueError(
            f"{candidate.url}: {rejection.detail} (attempt {attempts} of {attempts}), and other images do not come either:"
            f" check the network{'' if self._options.originals else ' and --bucket'}; {_go_on(self._output)}"
        )

    def _others(self) -> Iterator[str]:
        """Addresses of other images, the most promising first."""
        if self._known:
            yield self._known
        yield from (candidate.url for candidate, _ in self._window)
        # Looked at, and put back.
        ahead = list(islice(self._candidates, _PROBES))
        self._candidates = chain(ahead, self._candidates)
        yield from (candidate.url for candidate in ahead)

    def _check_streak(self, candidate: _Candidate, rejection: Rejected) -> None:
        self._skipped += 1
        self._failed += rejection.reason not in ("too small", "too large")
        if self._failed >= _MAX_FAILED or self._skipped >= _MAX_SKIPPED:
            raise ValueError(
                f"{self._skipped} images in a row could not be used; the last: {candidate.url}: {rejection}:"
                f" check --bucket and --min-side; {_go_on(self._output)}"
            )

    def _report(self, on_progress: Callable[[Progress], None]) -> None:
        skipped = sum(self._output.skipped.values())
        # Without a count, all of the list's images are gone through.
        done = self._output.images + (0 if self._options.count else skipped)
        on_progress(Progress("images", done, self._options.count or self._rows, skipped))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _go_on(output: Output) -> str:
    shards = output.manifest["shards"]
    return f"{_stored(sum(s['images'] for s in shards), len(shards))} kept; the same command goes on from there"


def _stored(images: int, shards: int) -> str:
    return f"{images} image{'s'[: images != 1]} in {shards} shard{'s'[: shards != 1]}"


def _disk_error(error: OSError, output: Output) -> str:
    what = one_line(error.strerror or error)
    if error.errno not in _FULL_DISK:
        return f"{error.filename or output.folder}: {what}"
    kept = _go_on(output) if hasattr(output, "manifest") else "nothing was begun"
    return f"{output.folder}: {what}: make room; {kept}"
