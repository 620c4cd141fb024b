# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server is at: metrics for Prometheus, and a page for people. Both are read-only, and come from this file alone."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .. import __version__
from .images import thumbnail
from .protocol import Request

logger = logging.getLogger(__name__)

#: Requests over which percentiles are taken.
RECENT = 1000

#: Images on the page, seconds between two of them, and pixels of their longer side.
IMAGES, IMAGE_SECONDS, THUMBNAIL = 4, 1.0, 320

#: Seconds that a browser may take over its request, and browsers served at once.
PATIENCE, VISITORS = 5.0, 16

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Pair:
    """An image before and after, as small JPEGs, and what was asked."""

    before: bytes
    after: bytes
    caption: str


class Status:
    """Counts what happens, for any thread to read.

    refiners  names that are served
    memory  bytes of GPU memory in use, by device
    load    (requests waiting, requests running)
    """

    def __init__(self, refiners: tuple[str, ...], memory: Callable[[], dict[str, float]], load: Callable[[], tuple[int, int]]):
        self._refiners, self._memory, self._load = refiners, memory, load
        self._started = time.time()
        self._lock = threading.Lock()
        self._outcomes: Counts[str] = Counts()
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._pairs: deque[Pair] = deque(maxlen=IMAGES)
        self._shown = float("-inf")
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "diffjscc_requests", "Messages that asked for an image, by how it ended", ["outcome"], registry=self.registry
        )
        self._computed = Counter("diffjscc_images", "Images given to a refiner", registry=self.registry)
        self._latency = Histogram("diffjscc_request_seconds", "From receipt of a request to its image", registry=self.registry)
        self._batch_time = Histogram("diffjscc_batch_seconds", "A batch in the refiner", registry=self.registry)
        self._batch_size = Histogram(
            "diffjscc_batch_images", "Images of a batch", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self):
        """What is asked for at the moment of scraping."""
        queued, running = self._load()
        yield GaugeMetricFamily("diffjscc_queued", "Requests that wait", queued)
        yield GaugeMetricFamily("diffjscc_running", "Requests that are computed", running)
        memory = GaugeMetricFamily("diffjscc_gpu_memory_bytes", "GPU memory in use", labels=["device"])
        for device, used in self._memory().items():
            memory.add_metric([device], used)
        yield memory

    def count(self, outcome: str, seconds: float | None = None) -> None:
        """A request has ended, ``seconds`` after its receipt where it got as far as the queue."""
        self._requests.labels(outcome).inc()
        with self._lock:
            self._outcomes[outcome] += 1
            if outcome == "ok":
                self._latencies.append(seconds)
        if outcome == "ok":
            self._latency.observe(seconds)

    def started(self, images: int) -> None:
        """A batch goes to the refiner."""
        self._computed.inc(images)
        self._batch_size.observe(images)

    def finished(self, seconds: float) -> None:
        self._batch_time.observe(seconds)

    def wants_image(self) -> bool:
        """Whether the page is due for a new pair. Thumbnails of every image would cost a busy server dear."""
        now = time.monotonic()
        if now - self._shown < IMAGE_SECONDS:
            return False
        self._shown = now
        return True

    def show(self, request: Request, before: np.ndarray, after: np.ndarray) -> None:
        """Puts a pair on the page; the oldest goes."""
        snr = "unknown SNR" if request.snr_db is None else f"{request.snr_db:g} dB"
        prompt = f", “{request.prompt}”" if request.prompt else ""
        caption = f"{request.refiner}, {request.width}×{request.height}, {snr}, seed {request.seed}{prompt}"
        pair = Pair(thumbnail(before, THUMBNAIL), thumbnail(after, THUMBNAIL), caption)
        with self._lock:
            self._pairs.appendleft(pair)

    def percentiles(self) -> dict[int, float]:
        """Seconds from receipt to image, over the last requests; empty before the first."""
        with self._lock:
            latencies = list(self._latencies)
        return dict(zip(PERCENTILES, map(float, np.percentile(latencies, PERCENTILES)))) if latencies else {}

    def page(self) -> str:
        """The page, whole: no script, nothing fetched from elsewhere, everything from outside escaped."""
        queued, running = self._load()
        with self._lock:
            outcomes, pairs = dict(self._outcomes), list(self._pairs)
        facts = [
            ("Refiners", ", ".join(self._refiners)),
            ("Up", _duration(time.time() - self._started)),
            ("Waiting", str(queued)),
            ("Running", str(running)),
            *((f"Latency, {percent} %", f"{seconds:.3f} s") for percent, seconds in self.percentiles().items()),
            *((f"GPU memory, {device}", f"{used / 1e9:.1f} GB") for device, used in self._memory().items()),
        ]
        return PAGE.format(
            version=escape(__version__),
            facts=_rows(facts),
            outcomes=_rows((name, str(count)) for name, count in sorted(outcomes.items())) or _rows([("none yet", "")]),
            images="".join(map(_figure, pairs)) or "<p>None yet.</p>",
        )

    def serve(self, host: str, port: int) -> Page:
        """Serves page and metrics from threads of their own."""
        return Page(self, host, port)


class Page:
    """The HTTP server: /, /metrics and /healthz."""

    def __init__(self, status: Status, host: str, port: int):
        visitors = threading.BoundedSemaphore(VISITORS)

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE
            server_version = f"diffjscc/{__version__}"

            def do_GET(self):
                pages = {
                    "/": lambda: (status.page().encode(), "text/html; charset=utf-8"),
                    "/metrics": lambda: (generate_latest(status.registry), CONTENT_TYPE_LATEST),
                    "/healthz": lambda: (b"ok\n", "text/plain"),
                }
                make = pages.get(self.path.partition("?")[0])
                if make is None:
                    self.send_error(404)
                    return
                body, kind = make()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Security-Policy", "default-src 'none'; img-src data:; style-src 'unsafe-inline'")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format, *args):
                logger.debug(format, *args)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request, address):
                if visitors.acquire(blocking=False):
                    super().process_request(request, address)
                else:
                    self.shutdown_request(request)

            def process_request_thread(self, request, address):
                try:
                    super().process_request_thread(request, address)
                finally:
                    visitors.release()

            def handle_error(self, request, address):
                logger.debug("a visitor left early", exc_info=True)

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot bind the status page to {host}:{port}: {error}") from None
        self.address = "http://{}:{}/".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True, name="diffjscc-status")
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(2.0)


def _rows(facts) -> str:
    return "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)


def _figure(pair: Pair) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{alt}">'
        for data, alt in ((pair.before, "before"), (pair.after, "after"))
    )
    return f"<figure>{images}<figcaption>{escape(pair.caption)}</figcaption></figure>"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {int(seconds) % 60} s"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>diffjscc serve</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
body {{ color: #222; background: #fff; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 2rem; }}
td {{ font-variant-numeric: tabular-nums; }}
figure {{ margin: 0 0 1.5rem; }} figure img {{ max-width: 48%; margin-right: 1%; }}
figcaption {{ color: #555; overflow-wrap: anywhere; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #ddd; background: #181818; }} th, figcaption {{ color: #aaa; }} a {{ color: #8bf; }}
}}
</style>
</head>
<body>
<h1>diffjscc serve {version}</h1>
<table><tbody>{facts}</tbody></table>
<h2>Requests, by how they ended</h2>
<table><tbody>{outcomes}</tbody></table>
<h2>Last images: received, refined</h2>
{images}
<p><a href="/metrics">Metrics for Prometheus</a></p>
</body>
</html>
"""
