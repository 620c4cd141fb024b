# SPDX-License-Identifier: GPL-3.0-or-later
"""A sweep as one page that a browser opens from a file: curves, table, and images side by side. Nothing else is loaded.

The page's parts lie beside this module: page.html, style.css, and the scripts data.js, curves.js, table.js, duels.js and wall.js.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import one_line
from ...images import read_image
from ..duels import duels, verdicts
from ..journal import write_whole
from ..run import Results
from ..table import HEADINGS, LOWER_IS_BETTER, measured_columns

#: Quality of the originals as WebP, and their longest side, pixels.
ORIGINAL_QUALITY, LONGEST_SIDE = 88, 1600

SCRIPTS = ("data.js", "curves.js", "table.js", "duels.js", "wall.js")


def write_report(results: Results, path: Path) -> None:
    """Writes the page. Raises ValueError where it cannot be written."""
    page = make_page(results, title=path.stem.replace("_", " ").replace("-", " "))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode())
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({one_line(error.strerror or error)})") from None


def check_report_path(path: Path) -> None:
    """Raises ValueError where a report could not be written, before hours of computing are spent on it."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder: give the name of a file, such as {path / 'report.html'}")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"{parent}: is a file, not a folder for the report")
            break


def make_page(results: Results, title: str) -> str:
    """The page as HTML."""
    folder = Path(__file__).parent
    # Data inside a script element ends at the next "</", whatever it is part of.
    data = json.dumps(page_data(results), ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "data": data,
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    return before + "".join(parts[name] + text for name, text in (part.split("}}", 1) for part in rest))


def page_data(results: Results) -> dict[str, Any]:
    """What the page's scripts read.

    metrics  [{key, label, digits, lower}]
    points   the summary's rows, with null for what was not measured
    images   [{name, width, height, original, received: {point: {blob, …}}}], where a point is a number of ``points``
    blobs    data URIs; equal images share one
    duels    joint coding against separate coding, see `duels.Duel`; verdicts: the same in sentences
    words    `Results.words`
    """
    made = duels(results.sweep, results.rows)
    metrics = [
        {"key": name, "label": HEADINGS[name][0], "digits": int(HEADINGS[name][1][1]), "lower": name in LOWER_IS_BETTER}
        for name in measured_columns(results.summary)
        if name != "niqe_original"
    ]
    blobs = _Blobs()
    sweep = results.sweep
    repeats, count = sweep.repeats, len(results.sources)
    images = []
    shown = sorted({number // repeats % count for number in results.images})
    rows = {(row["system"], row["channel"], row["rate"], row["snr_db"], row["image"], row["repeat"]): row for row in results.rows}
    for image in shown:
        source = results.sources[image]
        received = {}
        for index, point in enumerate(sweep.points):
            row = rows.get((point.system, point.channel, point.rate, point.snr_db, source.name, 0))
            if row is None:
                continue
            number = (index * count + image) * repeats
            # A row that was not sent has no image, and the page says so.
            blob = blobs.add(results.images[number].read_bytes()) if row["sent"] and number in results.images else None
            values = {metric["key"]: _finite(row[metric["key"]]) for metric in metrics if metric["key"] in row}
            received[index] = {"blob": blob, "sent": row["sent"], "uses": row["channel_uses"], **values}
        pixels = Image.fromarray(read_image(source.path))
        width, height = pixels.size
        pixels.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = io.BytesIO()
        pixels.save(file, "WEBP", quality=ORIGINAL_QUALITY)
        images.append(
            {
                "name": source.path.stem,
                "width": width,
                "height": height,
                "original": blobs.add(file.getvalue()),
                "received": received,
            }
        )
    return {
        "metrics": metrics,
        "systems": list(sweep.systems),
        "points": [{name: _finite(value) for name, value in row.items()} for row in results.summary],
        "duels": [{name: _finite(value) for name, value in asdict(duel).items()} for duel in made],
        "verdicts": verdicts(made),
        "images": images,
        "blobs": blobs.uris,
        "notes": [*results.missing, *([f"{len(results.failures)} rows are missing."] if results.failures else [])],
        "images_in_all": count,
        "words": results.words,
        "repeats": repeats,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Blobs:
    """Images as data URIs, each once."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._index: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        if content not in self._index:
            self._index[content] = len(self.uris)
            self.uris.append("data:image/webp;base64," + base64.b64encode(content).decode())
        return self._index[content]
