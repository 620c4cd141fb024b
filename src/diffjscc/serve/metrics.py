# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server counts and measures, for Prometheus: seconds and bytes, names and units by its conventions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily

from .. import __version__
from .health import Health, Phase
from .work import Client

#: Upper bounds of the histograms of times, s: from a stub's to a diffusion on a CPU's.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

#: The recent requests of which the page shows percentiles: how many, and seconds.
RECENT, RECENT_SECONDS = 2000, 300.0

#: The last errors that the page shows.
ERRORS = 8

PERCENTILES = (50, 90, 99)

#: Outcomes that are no failure of a request.
HARMLESS = ("ok", "repeated", "busy", "cancelled")


@dataclass(frozen=True)
class Load:
    """What a server has to do at the moment. ``clients``: unfinished requests by client."""

    queued: int = 0
    queue_limit: int = 0
    queued_bytes: int = 0
    running: int = 0
    batches: int = 0
    workers: int = 0
    connections: int = 0
    devices: dict[str, float] = field(default_factory=dict)
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)


class Metrics:
    """Counts requests and times. Any thread may call its methods.

    refiners  names that are served: only these become labels
    load      what is going on; called when metrics are read
    """

    def __init__(self, refiners: tuple[str, ...], load: Callable[[], Load], health: Health):
        self._refiners, self._load, self._health = frozenset(refiners), load, health
        self.started = time.time()
        self._lock = Lock()
        self._successes: dict[tuple[str, str], tuple[Counter, Histogram, Counter]] = {}
        self._latencies: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._errors: deque[tuple[float, str, str, str]] = deque(maxlen=ERRORS)
        self.registry = registry = CollectorRegistry()
        labels = ["refiner", "client"]
        self._requests = Counter("diffjscc_requests", "Requests, by outcome", ["outcome", *labels], registry=registry)
        self._duration = Histogram(
            "diffjscc_request_duration_seconds",
            "From the receipt of a request to its image",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self._wait = Histogram(
            "diffjscc_queue_wait_seconds",
            "From the receipt of a request to its batch",
            ["refiner"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_duration = Histogram(
            "diffjscc_batch_duration_seconds", "A batch in the refiner", ["refiner"], buckets=SECONDS, registry=registry
        )
        sizes = (1, 2, 4, 8, 16, 32)
        self._batch_size = Histogram("diffjscc_batch_images", "Images of a batch", ["refiner"], buckets=sizes, registry=registry)
        self._images = Counter("diffjscc_images", "Images given to a refiner", ["refiner"], registry=registry)
        self._pixels = Counter("diffjscc_pixels", "Pixels refined", ["refiner"], registry=registry)
        self._bad = Counter("diffjscc_bad_messages", "Messages that were no valid request", ["code"], registry=registry)
        self._refused = Counter("diffjscc_refused_connections", "Connections without a valid key", registry=registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics that are measured when they are read."""
        load = self._load()
        for name, text, value in (
            ("queued_requests", "Requests that wait", load.queued),
            ("queue_limit_requests", "Requests that may wait", load.queue_limit),
            ("queued_bytes", "Pixels of the requests that wait", load.queued_bytes),
            ("running_requests", "Requests that are computed or encoded", load.running),
            ("running_batches", "Batches that are computed", load.batches),
            ("workers", "Workers that can compute a batch", load.workers),
            ("connections", "Connections of clients", load.connections),
            ("ready", "1 while requests are welcome", int(not self._health.ready())),
            ("draining", "1 while the server is stopping", int(self._health.phase is Phase.DRAINING)),
        ):
            yield GaugeMetricFamily(f"diffjscc_{name}", text, value)
        build = GaugeMetricFamily("diffjscc_build_info", "Always 1; the version is a label", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        memory = GaugeMetricFamily("diffjscc_device_memory_used_bytes", "Memory in use on a GPU", labels=["device"])
        for device, used in load.devices.items():
            memory.add_metric([device], used)
        yield memory
        loaded = GaugeMetricFamily("diffjscc_refiner_loaded", "1 where a refiner is in memory", labels=["worker", "refiner"])
        for worker, names in load.loaded.items():
            for name in names:
                loaded.add_metric([worker, name], 1)
        yield loaded

    def _label(self, refiner: str) -> str:
        """A refiner's name as a label: those that do not exist have one together."""
        return refiner if refiner in self._refiners else "unknown"

    def count(self, outcome: str, refiner: str, client: Client, message: str = "") -> None:
        """Counts a request that has ended with an error code of the protocol, or with "busy" or "repeated"."""
        self._requests.labels(outcome, self._label(refiner), client.label).inc()
        if outcome not in HARMLESS:
            with self._lock:
                self._errors.appendleft((time.time(), outcome, client.name, message))

    def bad_message(self, code: str) -> None:
        self._bad.labels(code).inc()

    def refused(self) -> None:
        """A connection was refused."""
        self._refused.inc()

    def succeeded(self, refiner: str, client: Client, seconds: float, pixels: int) -> None:
        """Counts a request whose refined image was sent, ``seconds`` after the request was received."""
        refiner = self._label(refiner)
        ok, duration, refined = self._of_success(refiner, client.label)
        ok.inc()
        duration.observe(seconds)
        refined.inc(pixels)
        with self._lock:
            self._latencies.append((time.monotonic(), seconds))

    def _of_success(self, refiner: str, client: str) -> tuple[Counter, Histogram, Counter]:
        """The metrics of requests that are answered with an image; looking them up takes longer than counting."""
        found = self._successes.get((refiner, client))
        if found is None:
            labels = refiner, client
            found = self._requests.labels("ok", *labels), self._duration.labels(*labels), self._pixels.labels(refiner)
            self._successes[labels] = found
        return found

    def started_batch(self, refiner: str, waits: list[float]) -> None:
        """A batch is given to the refiner, after its items have waited so many seconds."""
        self._images.labels(refiner).inc(len(waits))
        self._batch_size.labels(refiner).observe(len(waits))
        wait = self._wait.labels(refiner)
        for seconds in waits:
            wait.observe(seconds)

    def finished_batch(self, refiner: str, seconds: float) -> None:
        self._batch_duration.labels(refiner).observe(seconds)

    def percentiles(self) -> dict[int, float]:
        """Seconds from request to reply by percent, over the last `RECENT_SECONDS`; empty where there were none."""
        recent = self._recent()
        return dict(zip(PERCENTILES, map(float, np.percentile(recent, PERCENTILES)))) if recent else {}

    def throughput(self) -> float:
        """Images a second, over the last `RECENT_SECONDS`, or since the start."""
        return len(self._recent()) / max(1.0, min(RECENT_SECONDS, time.time() - self.started))

    def _recent(self) -> list[float]:
        since = time.monotonic() - RECENT_SECONDS
        with self._lock:
            return [seconds for at, seconds in self._latencies if at >= since]

    def errors(self) -> list[tuple[float, str, str, str]]:
        """(time, code, client, message) of the last failures, newest first."""
        with self._lock:
            return list(self._errors)

    def outcomes(self) -> dict[str, int]:
        """Requests by outcome."""
        counts: dict[str, int] = {}
        for family in self._requests.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    outcome = sample.labels["outcome"]
                    counts[outcome] = counts.get(outcome, 0) + int(sample.value)
        return counts
