# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a server: metrics for Prometheus, and a status page for people. Both are read-only."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .. import __version__
from ..errors import one_line
from .images import thumbnail
from .protocol import Request

logger = logging.getLogger(__name__)

#: The latest requests, of which percentiles are computed.
RECENT = 1000

#: Images on the page, the least seconds between two of them, and pixels of their longer side.
IMAGES, IMAGE_SECONDS, THUMBNAIL = 4, 1.0, 320

#: Seconds after which an idle HTTP connection is closed, and the most connections at the same time.
HTTP_TIMEOUT, MAX_CONNECTIONS = 5.0, 16

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Pair:
    """An image before and after refinement, as small JPEGs, and the parameters of the request."""

    before: bytes
    after: bytes
    caption: str


class Status:
    """Counts requests, times and images. Any thread may call its methods.

    refiners  names that are served
    memory    bytes of GPU memory in use, by device
    load      (requests waiting, requests running)
    """

    def __init__(self, refiners: tuple[str, ...], memory: Callable[[], dict[str, float]], load: Callable[[], tuple[int, int]]):
        self._refiners, self._memory, self._load = refiners, memory, load
        self._started = time.time()
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._pairs: deque[Pair] = deque(maxlen=IMAGES)
        self._shown = float("-inf")
        self.registry = CollectorRegistry()
        self._requests = Counter("diffjscc_requests", "Requests, by outcome", ["outcome"], registry=self.registry)
        self._computed = Counter("diffjscc_images", "Images given to a refiner", registry=self.registry)
        self._latency = Histogram("diffjscc_request_seconds", "From receipt of a request to its image", registry=self.registry)
        self._batch_time = Histogram("diffjscc_batch_seconds", "A batch in the refiner", registry=self.registry)
        self._batch_size = Histogram(
            "diffjscc_batch_images", "Images of a batch", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics that are measured at the moment of scraping."""
        queued, running = self._load()
        yield GaugeMetricFamily("diffjscc_queued", "Requests that wait", queued)
        yield GaugeMetricFamily("diffjscc_running", "Requests that are computed or encoded", running)
        memory = GaugeMetricFamily("diffjscc_gpu_memory_bytes", "GPU memory in use", labels=["device"])
        for device, used in self._memory().items():
            memory.add_metric([device], used)
        yield memory

    def count(self, outcome: str) -> None:
        """Counts a request that has ended with an error code of the protocol, or with "busy", "repeated" or "internal"."""
        self._requests.labels(outcome).inc()

    def succeeded(self, seconds: float) -> None:
        """Counts a request whose refined image was sent, ``seconds`` after the request was received."""
        self.count("ok")
        self._latency.observe(seconds)
        with self._lock:
            self._latencies.append(seconds)

    def started(self, images: int) -> None:
        """A batch is given to the refiner."""
        self._computed.inc(images)
        self._batch_size.observe(images)

    def finished(self, seconds: float) -> None:
        """A batch is finished, after ``seconds`` in the refiner."""
        self._batch_time.observe(seconds)

    def wants_image(self) -> bool:
        """Whether the page takes another pair now. Thumbnails of every image would slow down a busy server."""
        now = time.monotonic()
        if now - self._shown < IMAGE_SECONDS:
            return False
        self._shown = now
        return True

    def show(self, request: Request, before: np.ndarray, after: np.ndarray) -> None:
        """Puts a pair on the page; the oldest is removed."""
        snr = "unknown SNR" if request.snr_db is None else f"{request.snr_db:g} dB"
        prompt = f", “{request.prompt}”" if request.prompt else ""
        caption = f"{request.refiner}, {request.width}×{request.height}, {snr}, seed {request.seed}{prompt}"
        pair = Pair(thumbnail(before, THUMBNAIL), thumbnail(after, THUMBNAIL), caption)
        with self._lock:
            self._pairs.appendleft(pair)

    def percentiles(self) -> dict[int, float]:
        """Seconds from request to reply by percent, over the latest requests; empty before the first."""
        with self._lock:
            latencies = list(self._latencies)
        return dict(zip(PERCENTILES, map(float, np.percentile(latencies, PERCENTILES)))) if latencies else {}

    def outcomes(self) -> dict[str, int]:
        """Requests by outcome."""
        samples = (sample for family in self._requests.collect() for sample in family.samples)
        return {sample.labels["outcome"]: int(sample.value) for sample in samples if sample.name.endswith("_total")}

    def page(self) -> str:
        """The page as HTML: without scripts, without references to other hosts, and with all text from clients escaped."""
        queued, running = self._load()
        with self._lock:
            pairs = list(self._pairs)
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
            outcomes=_rows((name, str(count)) for name, count in sorted(self.outcomes().items())) or _rows([("none yet", "")]),
            images="".join(map(_figure, pairs)) or "<p>None yet.</p>",
        )

    def serve(self, host: str, port: int) -> Page:
        """Serves page and metrics over HTTP, in threads of their own."""
        return Page(self, host, port)


class Page:
    """The HTTP server: /, /metrics and /healthz. Raises ValueError where the address cannot be bound."""

    def __init__(self, status: Status, host: str, port: int):
        connections = threading.BoundedSemaphore(MAX_CONNECTIONS)

        class Handler(BaseHTTPRequestHandler):
            timeout = HTTP_TIMEOUT
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
                if connections.acquire(blocking=False):
                    super().process_request(request, address)
                else:
                    self.shutdown_request(request)

            def process_request_thread(self, request, address):
                try:
                    super().process_request_thread(request, address)
                finally:
                    connections.release()

            def handle_error(self, request, address):
                logger.debug("an HTTP connection was broken off", exc_info=True)

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot bind the status page to {host}:{port}: {one_line(error)}") from None
        self.address = "http://{}:{}/".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True, name="diffjscc-status")
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(2.0)


def _rows(facts: Iterable[tuple[str, str]]) -> str:
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
<h2>Requests, by outcome</h2>
<table><tbody>{outcomes}</tbody></table>
<h2>Last images: received, refined</h2>
{images}
<p><a href="/metrics">Metrics for Prometheus</a></p>
</body>
</html>
"""
