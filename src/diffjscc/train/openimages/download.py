# SPDX-License-Identifier: GPL-3.0-or-later
"""Files over HTTP: time limits, retries with exponential back-off, and downloads that go on where they ended."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3

from ... import __version__
from ...errors import one_line
from .rejection import Rejected

#: No image of more bytes than this is downloaded.
MAX_IMAGE_BYTES = 100_000_000
#: No pause between two attempts is longer than this, in seconds, whatever the server asks for.
MAX_PAUSE = 60.0
#: One image may take this many times the time limit for a single piece of data.
_TOTAL_TIMEOUTS = 4
_PIECE = 1 << 16


class TryAgain(Exception):
    """An attempt failed in a way that may be over soon. ``reason`` and ``detail`` are those of `Rejected`."""

    def __init__(self, reason: str, detail: str, pause: float = 0.0):
        super().__init__(detail)
        self.reason, self.detail, self.pause = reason, detail, pause


class Stopped(Exception):
    """`Downloader.stop` was called."""


class Downloader:
    """Downloads for several threads at once, until `stop` is called.

    timeout  seconds to wait for a connection, and for each piece of data
    retries  further attempts after a failed one
    backoff  seconds before the first of them; doubled for each one after it, times a random factor from 0.5 to 1.5, so that
             many workers do not return to a struggling server at the same instant
    """

    def __init__(self, timeout: float, retries: int, backoff: float):
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._local = threading.local()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends pauses at once, and downloads in progress with their next piece of data."""
        self._stopped.set()

    def get(self, url: str, verify: Callable[[bytes], None] = lambda data: None, retries: int | None = None) -> bytes:
        """The content of ``url``. Raises `Rejected` where the server does not have it, or where the last attempt fails too.

        verify   raises `TryAgain` for content that is not what was expected
        retries  further attempts, where other than usual
        """
        retries = self._retries if retries is None else retries
        for attempt in itertools.count(1):
            try:
                data = self._read(url)
                verify(data)
                return data
            except TryAgain as error:
                if attempt > retries:
                    raise Rejected(error.reason, error.detail) from None
                self._pause(attempt, error.pause)
        raise AssertionError("unreachable: the loop has no end")

    def answers(self, url: str) -> bool:
        """Whether the server of ``url`` answers right now, be it that it does not have this one."""
        try:
            with self._open(url):
                return True
        except Rejected as error:
            return error.detail.startswith("HTTP 4")
        except TryAgain:
            return False

    def save(self, url: str, path: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        """Downloads a large file to ``path``, and goes on where an earlier attempt, or an earlier process, was cut off.

        on_bytes  is told the bytes that are there and the bytes in all, where the server says how many

        Raises ValueError in one line where the server cannot be reached or does not have it, OSError where the disk is full.
        """
        partial, validator = path.with_name(path.name + ".part"), path.with_name(path.name + ".validator")
        failures, longest = 0, 0
        while True:
            try:
                self._save_rest(url, partial, validator, on_bytes)
                partial.rename(path)
                validator.unlink(missing_ok=True)
                return
            except Rejected as error:
                raise ValueError(f"{url}: {error.detail}: check --lists") from None
            except TryAgain as error:
                size = partial.stat().st_size if partial.exists() else 0
                # An attempt that brought something is none that failed.
                failures = 0 if size > longest else failures + 1
                longest = max(size, longest)
                if failures > self._retries:
                    raise ValueError(
                        f"{url}: {error.detail} (attempt {failures} of {1 + self._retries}): check the network and --lists;"
                        " the same command goes on from here"
                    ) from None
                self._pause(max(1, failures), error.pause)

    def _save_rest(self, url: str, partial: Path, validator: Path, on_bytes) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        headers = {}
        # A part is only continued where the server confirms that the file is still the same (If-Range).
        if have and validator.exists():
            headers = {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
        with self._open(url, headers) as response:
            if response.status_code == 416:
                # Nothing follows. Where the size is not the whole one either, the next attempt begins anew.
                if response.headers.get("Content-Range") != f"bytes */{have}":
                    partial.unlink()
                    raise TryAgain("unreachable", "the file changed during the download")
                return
            resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code == 206 and not resumed:
                partial.unlink()
                raise TryAgain("unreachable", "another range came than was asked for")
            with open(partial, "ab" if resumed else "wb") as file:
                if not resumed:
                    # After the part was emptied: a kill in between must not leave old bytes with the new validator.
                    have = 0
                    _write_validator(validator, response.headers)
                length = response.headers.get("Content-Length", "")
                total = have + int(length) if length.isdigit() else None
                for piece in self._pieces(response):
                    file.write(piece)
                    have += len(piece)
                    on_bytes(have, total)

    def _read(self, url: str) -> bytes:
        deadline = time.monotonic() + _TOTAL_TIMEOUTS * self._timeout
        with self._open(url) as response:
            content = bytearray()
            for piece in self._pieces(response):
                content += piece
                if len(content) > MAX_IMAGE_BYTES:
                    raise Rejected("too large", f"more than {MAX_IMAGE_BYTES // 1_000_000} MB")
                if time.monotonic() > deadline:
                    raise TryAgain("unreachable", "too slow")
            announced = _announced_md5(response.headers)
        if announced and hashlib.md5(content, usedforsecurity=False).hexdigest() != announced:
            raise TryAgain("checksum", "not the bytes that the server announced")
        return bytes(content)

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """A response with status 200 (or, with a Range header, 206 or 416), and errors inside the block as ours."""
        if self._stopped.is_set():
            raise Stopped
        try:
            with self._session.get(url, headers=headers, stream=True, timeout=self._timeout) as response:
                status = response.status_code
                if status in (408, 425, 429) or status >= 500:
                    raise TryAgain("unreachable", f"HTTP {status}", _retry_after(response.headers))
                if status != 200 and not (headers and status in (206, 416)):
                    raise Rejected("gone", f"HTTP {status}")
                yield response
        except requests.TooManyRedirects:
            raise Rejected("gone", "redirected without end") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise Rejected("gone", "not an HTTP address") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise TryAgain("unreachable", _cause(error)) from None

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        # read1 returns what has arrived. read would wait for a full piece, and a slow server could stretch that for ever.
        while piece := response.raw.read1(_PIECE, decode_content=True):
            if self._stopped.is_set():
                raise Stopped
            yield piece

    def _pause(self, attempt: int, at_least: float) -> None:
        pause = self._backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        if self._stopped.wait(min(max(pause, at_least), MAX_PAUSE)):
            raise Stopped

    @property
    def _session(self) -> requests.Session:
        """A session of the calling thread: requests does not promise that threads can share one."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.max_redirects = 5
            # Compressing an image again gains nothing, and ranges count the bytes as stored.
            session.headers.update({"User-Agent": f"diffjscc/{__version__}", "Accept-Encoding": "identity"})
            self._local.session = session
        return self._local.session


def _write_validator(path: Path, headers: Mapping[str, str]) -> None:
    """Keeps what identifies this version of the file for If-Range; a weak ETag does not serve."""
    etag = headers.get("ETag", "")
    value = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    if value:
        path.write_text(value)
    else:
        path.unlink(missing_ok=True)


def _announced_md5(headers: Mapping[str, str]) -> str | None:
    """The MD5 of the content in hexadecimal, where the server is one that announces it.

    Amazon S3's ETag is the MD5 of every object that was uploaded in one part and can be read by anyone.
    """
    etag = headers.get("ETag", "").strip('"').lower()
    return etag if "x-amz-request-id" in headers and re.fullmatch("[0-9a-f]{32}", etag) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _cause(error: BaseException) -> str:
    """What broke a connection, in a few words without addresses of objects or sockets."""
    innermost = error
    while following := innermost.__cause__ or innermost.__context__:
        innermost = following
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) or isinstance(innermost, TimeoutError):
        return "timed out"
    if isinstance(innermost, OSError) and innermost.strerror:
        return one_line(innermost.strerror)
    return "connection lost"
