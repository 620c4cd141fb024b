# SPDX-License-Identifier: GPL-3.0-or-later
"""A radio's status for people: a page without scripts and without references to other hosts, and a line for a terminal.

All text that came off the air is escaped, and everything is bounded: a page has at most 0.5 MB, whatever is received.
"""

from __future__ import annotations

import base64
import math
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from threading import Lock
from typing import Any

import numpy as np

from .. import __version__
from ..errors import one_line
from .images import thumbnail

#: Port of the page where none is given.
PORT = 8765

#: Images on the page, pixels of their longer side, and the least seconds between two of them.
IMAGES, SIDE, IMAGE_SECONDS = 6, 320, 0.2

#: Bursts whose SNR is shown, points of the constellation, and lines about what went wrong.
BURSTS, POINTS, EVENTS = 400, 300, 12

#: Characters of a text that is shown.
TEXT = 200

#: Heights of a bar in a line of text.
BARS = "▁▂▃▄▅▆▇█"

#: Size of a chart, pixels, and the room for its labels.
WIDTH, HEIGHT, LEFT, BELOW = 420, 200, 44, 24

#: dB between two lines of a chart.
STEPS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Shown:
    """An image on the page: a small JPEG, and its caption."""

    jpeg: bytes
    caption: str


class RadioState:
    """What a receiver has seen of late. Any thread may call its methods.

    facts        names and values that do not change: the radio, its frequency, …
    sample_rate  samples/s
    """

    def __init__(self, facts: Sequence[tuple[str, str]], sample_rate: float):
        self._facts, self._rate, self._lock = list(facts), sample_rate, Lock()
        self._began = time.time()
        self._images: deque[Shown] = deque(maxlen=IMAGES)
        self._shown = -math.inf
        self._count = 0
        self._bursts: deque[tuple[float, float]] = deque(maxlen=BURSTS)
        self._cfo = math.nan
        self._points = self._channel = self._spectrum = np.zeros(0)
        self._level_db = self._peak = math.nan
        self._counters: dict[str, Any] = {}
        self._reasons: dict[str, Any] = {}
        self._events: deque[str] = deque(maxlen=EVENTS)

    def image(self, pixels: np.ndarray, metadata: Mapping[str, Any]) -> None:
        """An image, uint8 (H, W, 3), and the metadata of its PDU."""
        with self._lock:
            self._count += metadata.get("stage") != "refined"
            now = time.monotonic()
            # Thumbnails of every image would slow a busy receiver down.
            if now - self._shown < IMAGE_SECONDS:
                return
            self._shown = now
        shown = Shown(thumbnail(pixels, SIDE), _caption(metadata))
        with self._lock:
            self._images.appendleft(shown)

    def burst(self, snr_db: float, cfo: float, values: np.ndarray, channel: np.ndarray | None) -> None:
        """A burst: SNR in dB, carrier offset in cycles/sample, symbols complex (n,), channel complex (fft_len,)."""
        points = np.array(values[:: max(1, len(values) // POINTS)][:POINTS])
        with self._lock:
            self._bursts.append((time.time(), float(snr_db)))
            self._cfo, self._points = float(cfo) * self._rate, points
            if channel is not None:
                self._channel = np.abs(channel)

    def spectrum(self, density_db: np.ndarray, level_db: float, peak: float) -> None:
        """Power densities over the sample rate, dB, lowest frequency first; mean power in dB of full scale, highest amplitude."""
        with self._lock:
            self._spectrum, self._level_db, self._peak = density_db, float(level_db), float(peak)

    def counters(self, counters: Mapping[str, Any], reasons: Mapping[str, Any]) -> None:
        """As a receiver's `counters` and `reasons` give them."""
        with self._lock:
            self._counters, self._reasons = dict(counters), dict(reasons)

    def event(self, line: str) -> None:
        """A line about what went wrong."""
        with self._lock:
            self._events.appendleft(f"{time.strftime('%H:%M:%S')} {one_line(line, TEXT)}")

    def page(self) -> bytes:
        """The page as HTML."""
        with self._lock:
            images, bursts, events = list(self._images), list(self._bursts), list(self._events)
            points, channel, spectrum = self._points, self._channel, self._spectrum
            facts = [*self._facts, ("Running for", _duration(time.time() - self._began)), *self._now()]
            rows = _counted(self._counters, self._reasons)
        charts = [
            _figure("SNR of bursts, dB", _snr_chart(bursts)),
            _figure("Spectrum, dB, over kHz from the centre", _spectrum_chart(spectrum, self._rate)),
            _figure("Symbols of the last burst", _constellation(points)),
            _figure("Channel of the last burst, dB, over kHz", _channel_chart(channel, self._rate)),
        ]
        figures = "".join(
            f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(image.jpeg).decode()}" alt="received image">'
            f"<figcaption>{escape(image.caption)}</figcaption></figure>"
            for image in images
        )
        return _PAGE.format(
            version=escape(__version__),
            images=figures or "<p>None yet.</p>",
            charts="".join(charts),
            facts=_rows(facts),
            counters=_rows(rows) or _rows([("none yet", "")]),
            events="".join(f"<li>{escape(line)}</li>" for line in events) or "<li>Nothing.</li>",
        ).encode()

    def line(self, width: int | None = None) -> str:
        """The same in one line of at most ``width`` characters; None: the terminal's width."""
        with self._lock:
            snrs = [snr_db for _, snr_db in self._bursts][-12:]
            words = [time.strftime("%H:%M:%S"), f"{self._count} image{'' if self._count == 1 else 's'}"]
            if snrs:
                words.append(f"SNR {snrs[-1]:.1f} dB {bars(snrs)}")
                words.append(f"CFO {round(self._cfo):+d} Hz" if math.isfinite(self._cfo) else "")
            numbers = self._counters.get("bursts", {})
            words += [f"{name} {numbers[name]}" for name in ("detected", "received", "rejected", "interrupted") if name in numbers]
            if math.isfinite(self._level_db):
                words.append(f"level {self._level_db:.0f} dB{' CLIPPING' if self._peak >= 0.99 else ''}")
            if len(self._spectrum):
                words.append(bars([float(part.max()) for part in np.array_split(self._spectrum, 16)]))
        if width is None:
            width = shutil.get_terminal_size().columns - 1
        return " · ".join(filter(None, words))[:width]

    def _now(self) -> list[tuple[str, str]]:
        found = [("Images", str(self._count))]
        if self._bursts:
            found.append(("SNR of the last burst", f"{self._bursts[-1][1]:.1f} dB, at {_clock(self._bursts[-1][0])}"))
        if math.isfinite(self._cfo):
            found.append(("Carrier offset", f"{round(self._cfo):+d} Hz"))
        if math.isfinite(self._level_db):
            clipping = " — the receiver clips: lower its gain" if self._peak >= 0.99 else ""
            found.append(("Level", f"{self._level_db:.1f} dB of full scale, peak {self._peak:.2f}{clipping}"))
        return found


def bars(values: Sequence[float]) -> str:
    """Values as small bars, from the lowest to the highest."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(BARS) - 1) / (high - low) if high - low > 1 else 0.0
    return "".join(BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def _caption(metadata: Mapping[str, Any]) -> str:
    words = [f"{metadata.get('callsign')}:" if metadata.get("callsign") else "", f"image {metadata.get('image_id', '?')}"]
    words.append(f"{metadata.get('width', '?')}×{metadata.get('height', '?')}")
    if isinstance(metadata.get("snr_db"), (int, float)):
        words.append(f"{metadata['snr_db']:.1f} dB")
    words += [str(metadata[name]) for name in ("codec", "rate") if name in metadata]
    words += ["refined"] if metadata.get("stage") == "refined" else []
    words += ["incomplete"] if metadata.get("truncated") else []
    return one_line(", ".join(filter(None, words)).replace(":,", ":"), TEXT) + f", {time.strftime('%H:%M:%S')}"


def _counted(counters: Mapping[str, Any], reasons: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in counters.items():
        if name == "bursts" and isinstance(value, Mapping):
            rows += [(f"bursts {kind}", text) for kind, text in _counted(value, {})]
            continue
        why = value if isinstance(value, Mapping) else reasons.get(name, {})
        number = sum(value.values()) if isinstance(value, Mapping) else value
        text = ", ".join(f"{one_line(reason, TEXT)} {count}" for reason, count in why.items())
        rows.append((str(name), f"{number} ({text})" if text else str(number)))
    return rows


def _rows(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {int(seconds) % 60} s"


# Charts: SVG without scripts.


def _figure(title: str, chart: str) -> str:
    return f"<figure class='chart'><figcaption>{escape(title)}</figcaption>{chart}</figure>"


def _svg(content: str, label: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{content}</svg>'


class _Axes:
    """Places of values in a chart, with a frame and labels at the ends."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float], words: tuple[str, str]):
        (self.left, self.right), (self.low, self.high), self.words = across, up, words

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / (self.right - self.left or 1)
        up = (y - self.low) / (self.high - self.low or 1)
        return LEFT + across * (WIDTH - LEFT - 8), HEIGHT - BELOW - min(max(up, 0.0), 1.0) * (HEIGHT - BELOW - 8)

    def frame(self) -> str:
        lines = []
        step = next((step for step in STEPS if (self.high - self.low) / step <= 5), STEPS[-1])
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            _, y = self.place(self.left, number * step)
            lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number * step}</text>')
        lines.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{escape(self.words[0])}</text>')
        lines.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{escape(self.words[1])}</text>')
        return "".join(lines)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        places = [self.place(a, b) for a, b in zip(x, y) if math.isfinite(b)]
        return f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>'


def _nothing(label: str) -> str:
    return _svg(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing yet</text>', label)


def _range(values: np.ndarray, least: float, step: float = 5.0) -> tuple[float, float]:
    """Ends of an axis: whole steps around the values, and at least ``least`` apart."""
    low, high = step * math.floor(values.min() / step), step * math.ceil(values.max() / step)
    return (low, high) if high - low >= least else (low - (least - high + low) / 2, high + (least - high + low) / 2)


def _snr_chart(bursts: Sequence[tuple[float, float]]) -> str:
    if not bursts:
        return _nothing("SNR over time")
    times, snrs = np.array(bursts).T
    axes = _Axes((times[0], max(times[-1], times[0] + 1)), _range(snrs, 10), (_clock(times[0]), _clock(times[-1])))
    dots = "".join('<circle r="2.2" cx="{:.1f}" cy="{:.1f}"/>'.format(*axes.place(a, b)) for a, b in bursts)
    return _svg(axes.frame() + dots, "SNR over time")


def _spectrum_chart(density_db: np.ndarray, rate: float) -> str:
    known = density_db[np.isfinite(density_db)]
    if not len(known):
        return _nothing("spectrum")
    half = rate / 2000
    axes = _Axes((-half, half), _range(known, 20), (f"{-half:g}", f"{half:g}"))
    return _svg(axes.frame() + axes.path(np.linspace(-half, half, len(density_db)), density_db), "spectrum")


def _channel_chart(channel: np.ndarray, rate: float) -> str:
    # Where there is no carrier the channel is not known.
    known = np.flatnonzero(np.isfinite(channel) & (channel > 0))
    if not len(known):
        return _nothing("channel")
    values = 20 * np.log10(channel[known])
    places = (known / len(channel) - 0.5) * rate / 1000
    axes = _Axes((places[0], places[-1]), _range(values, 20), (f"{places[0]:.4g}", f"{places[-1]:.4g}"))
    return _svg(axes.frame() + axes.path(places, values), "channel")


def _constellation(points: np.ndarray) -> str:
    if not len(points):
        return _nothing("constellation")
    centre, scale = (WIDTH / 2, HEIGHT / 2), HEIGHT / 7
    known = points[np.isfinite(points)]
    dots = "".join(
        f'<circle r="1.6" cx="{centre[0] + scale * min(max(p.real, -3.4), 3.4):.1f}"'
        f' cy="{centre[1] - scale * min(max(p.imag, -3.4), 3.4):.1f}"/>'
        for p in known
    )
    lines = f'<line class="grid" x1="{centre[0] - HEIGHT / 2}" x2="{centre[0] + HEIGHT / 2}" y1="{centre[1]}" y2="{centre[1]}"/>'
    lines += f'<line class="grid" x1="{centre[0]}" x2="{centre[0]}" y1="0" y2="{HEIGHT}"/>'
    return _svg(lines + dots, "constellation")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="2">
<title>diffjscc-rx</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem; }}
body {{ color: #222; background: #fff; }}
h1 {{ font-size: 1.4rem; margin: 0 0 1rem; }} h2 {{ font-size: 1.05rem; margin: 1.5rem 0 .5rem; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }}
.row table {{ flex: 1 1 26rem; border-collapse: collapse; }}
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 1.5rem; vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
figure {{ margin: 0; width: 18.5rem; }} figure img {{ max-width: 100%; display: block; }}
figure.chart {{ width: auto; max-width: 100%; }} svg {{ max-width: 100%; height: auto; }}
figcaption {{ color: #555; overflow-wrap: anywhere; }}
svg text {{ font-size: 11px; fill: #666; }} svg .grid {{ stroke: #ddd; }} svg circle {{ fill: #0072b2; }}
svg polyline {{ fill: none; stroke: #0072b2; stroke-width: 1.3; }}
li {{ overflow-wrap: anywhere; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #ddd; background: #181818; }} th, figcaption {{ color: #aaa; }}
  svg text {{ fill: #aaa; }} svg .grid {{ stroke: #333; }} svg circle {{ fill: #56b4e9; }} svg polyline {{ stroke: #56b4e9; }}
}}
</style>
</head>
<body>
<h1>diffjscc-rx {version}</h1>
<h2>Last images</h2>
<div class="row">{images}</div>
<h2>Signal</h2>
<div class="row">{charts}</div>
<h2>Receiver</h2>
<div class="row"><table><tbody>{facts}</tbody></table><table><tbody>{counters}</tbody></table></div>
<h2>What went wrong last</h2>
<ul>{events}</ul>
</body>
</html>
"""
