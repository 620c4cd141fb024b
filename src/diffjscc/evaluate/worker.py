# SPDX-License-Identifier: GPL-3.0-or-later
"""What computes the rows of a sweep, in a process of its own: systems, and the measures of what they receive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..images import to_pixels, to_tensor
from .measures import Measures, columns
from .plan import Cell, Spec
from .systems import System, build_system

#: Quality of the WebP images of the report.
REPORT_QUALITY = 82

#: Makes a system of what stands in a sweep file.
Build: TypeAlias = Callable[[Spec], System]


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker is made of, in plain types, so that it can be sent to another process or machine."""

    systems: Mapping[str, Spec]
    metrics: Sequence[str]
    metrics_weights: str = ""
    build: Build = build_system


@dataclass(frozen=True)
class Done:
    """A finished row, without what follows from its cell.

    row       columns of the table, plain values
    times     what differs from run to run: seconds, place, git revision
    image     received image for the report, WebP
    features  see `Measures.features`
    """

    row: dict[str, Any]
    times: dict[str, Any]
    image: bytes | None
    features: bytes | None


class Worker:
    """Computes one cell after another. Systems are built when they are first needed, and kept."""

    def __init__(self, settings: WorkerSettings):
        # One thread, whatever the machine: sums in another order would be other numbers.
        torch.set_num_threads(1)
        self._settings = settings
        self._systems: dict[str, System] = {}
        self._measures = Measures(settings.metrics, settings.metrics_weights)
        self._empty = dict.fromkeys(columns(settings.metrics), float("nan"))
        self._versions = {"diffjscc": __version__, "torch": torch.__version__}
        self._place: dict[str, Any] = {"host": socket.gethostname(), "process": os.getpid(), "revision": revision()}
        self._measured: dict[bytes, tuple[dict[str, float], bytes | None]] = {}

    def ready(self) -> tuple[str, int]:
        """(host, process id)."""
        return self._place["host"], self._place["process"]

    def begin(self, pixels: np.ndarray) -> None:
        """The image of the cells that follow, uint8 RGB (H, W, 3)."""
        self._original, self._image = pixels, to_tensor(pixels)
        self._measured.clear()

    def run(self, cell: Cell, budget: int, show: bool) -> Done:
        """One transmission of the image. ``show``: keep the received image for the report.

        Whatever the system raises is raised here.
        """
        started, processor = time.time(), time.process_time()
        system = self._system(cell.point.system)
        begin = time.perf_counter()
        sent = system.send(self._image, budget, cell.point.snr_db, cell.point.channel, cell.seed)
        sending = time.perf_counter() - begin
        begin = time.perf_counter()
        measures, features, image = self._empty, None, None
        if sent.image is not None:
            pixels = to_pixels(sent.image)
            measures, features = self._measure(pixels)
            image = _webp(pixels) if show else None
        # What a system says of its times belongs to the times, so that the table is the same in every run.
        details = {key: value for key, value in sent.details.items() if not key.endswith("seconds")}
        row = {
            "sent": sent.image is not None,
            "channel_uses": int(sent.channel_uses),
            **measures,
            "details": json.dumps(details, sort_keys=True, ensure_ascii=False, default=str),
            **self._versions,
        }
        times = {
            "started": round(started, 3),
            "send_seconds": round(sending, 6),
            "measure_seconds": round(time.perf_counter() - begin, 6),
            "cpu_seconds": round(time.process_time() - processor, 6),
            **self._place,
        }
        return Done(row, times, image, features)

    def _system(self, name: str) -> System:
        if name not in self._systems:
            self._systems[name] = self._settings.build(self._settings.systems[name])
        return self._systems[name]

    def _measure(self, pixels: np.ndarray) -> tuple[dict[str, float], bytes | None]:
        """Systems without errors receive the same image each time: it is measured once."""
        key = hashlib.sha256(pixels.tobytes()).digest()
        if key not in self._measured:
            self._measured[key] = self._measures.measure(pixels, self._original), self._measures.features(pixels)
        return self._measured[key]


def revision() -> str:
    """The git revision of this code, abbreviated; "" where it is no checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=REPORT_QUALITY, method=4)
    return file.getvalue()
