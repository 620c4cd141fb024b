# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page for people: without scripts, without references to other hosts, and with all text from clients escaped."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from threading import Lock

import numpy as np

from .. import __version__
from .health import Health
from .images import thumbnail
from .metrics import Load, Metrics
from .protocol import Request

#: Images on the page, the least seconds between two of them, seconds after which they disappear, and pixels of their longer side.
IMAGES, IMAGE_SECONDS, EXPIRY_SECONDS, THUMBNAIL = 4, 1.0, 600.0, 320


@dataclass(frozen=True)
class Pair:
    """An image before and after refinement, as small JPEGs, the parameters of the request, and when it was refined."""

    before: bytes
    after: bytes
    caption: str
    at: float


class Gallery:
    """The latest images. Any thread may call its methods. ``enabled``: whether there are any."""

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self._lock = Lock()
        self._pairs: deque[Pair] = deque(maxlen=IMAGES)
        self._shown = float("-inf")

    def wants_image(self) -> bool:
        """Whether the page takes another pair now. Thumbnails of every image would slow down a busy server."""
        now = time.monotonic()
        if not self.enabled or now - self._shown < IMAGE_SECONDS:
            return False
        self._shown = now
        return True

    def show(self, request: Request, client: str, before: np.ndarray, after: np.ndarray) -> None:
        """Puts a pair on the page; the oldest is removed."""
        snr = "unknown SNR" if request.snr_db is None else f"{request.snr_db:g} dB"
        prompt = f", “{request.prompt}”" if request.prompt else ""
        caption = f"{request.refiner}, {request.width}×{request.height}, {snr}, seed {request.seed}{prompt}, for {client}"
        pair = Pair(thumbnail(before, THUMBNAIL), thumbnail(after, THUMBNAIL), caption, time.monotonic())
        with self._lock:
            self._pairs.appendleft(pair)

    def pairs(self) -> list[Pair]:
        """Those that have not expired, newest first."""
        with self._lock:
            while self._pairs and time.monotonic() - self._pairs[-1].at > EXPIRY_SECONDS:
                self._pairs.pop()
            return list(self._pairs)


def render(metrics: Metrics, health: Health, load: Callable[[], Load], refiners: tuple[str, ...], gallery: Gallery) -> str:
    """The page as HTML."""
    now = load()
    facts = [
        ("State", health.ready() or "ready"),
        ("Up", _duration(time.time() - metrics.started)),
        ("Refiners", ", ".join(refiners)),
        ("Waiting", f"{now.queued} of at most {now.queue_limit}"),
        ("Running", f"{now.running} in {now.batches} batches"),
        ("Workers", str(now.workers)),
        ("Connections", str(now.connections)),
        ("Images a second, last 5 min", f"{metrics.throughput():.2f}"),
        *((f"Latency, {percent} %, last 5 min", f"{seconds:.3f} s") for percent, seconds in metrics.percentiles().items()),
        *((f"In memory, {worker}", ", ".join(names) or "none") for worker, names in now.loaded.items()),
        *((f"GPU memory, {device}", f"{used / 1e9:.1f} GB") for device, used in now.devices.items()),
    ]
    errors = [
        (f"{time.strftime('%H:%M:%S', time.localtime(at))} {code}", f"{who}: {text}") for at, code, who, text in metrics.errors()
    ]
    images = "".join(map(_figure, gallery.pairs())) or "<p>None.</p>"
    return PAGE.format(
        version=escape(__version__),
        facts=_rows(facts),
        clients=_rows((name, str(count)) for name, count in sorted(now.clients.items())) or _rows([("none", "")]),
        outcomes=_rows((name, str(count)) for name, count in sorted(metrics.outcomes().items())) or _rows([("none yet", "")]),
        errors=_rows(errors) or _rows([("none", "")]),
        images=f"<h2>Last images: received, refined</h2>\n{images}" if gallery.enabled else "",
    )


def _rows(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)


def _figure(pair: Pair) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{alt}">'
        for data, alt in ((pair.before, "before"), (pair.after, "after"))
    )
    return f"<figure>{images}<figcaption>{escape(pair.caption)}</figcaption></figure>"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


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
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 2rem; vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
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
<h2>Unfinished requests, by client</h2>
<table><tbody>{clients}</tbody></table>
<h2>Requests, by outcome</h2>
<table><tbody>{outcomes}</tbody></table>
<h2>Last errors</h2>
<table><tbody>{errors}</tbody></table>
{images}
<p><a href="/metrics">Metrics for Prometheus</a></p>
</body>
</html>
"""
