# SPDX-License-Identifier: GPL-3.0-or-later
"""Sweeps: which images are sent over which channels by which systems, in a YAML file that a person reads."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ..fields import Fields, nearest
from ..images import find_images, read_image
from ..packaged import read_yaml
from ..symbols import BLOCK, parse_rate, parse_snr_db, rate_channels
from .measures import METRICS
from .systems import CHANNELS

#: What `systems.build_system` makes a system of: a name, or a mapping with the name and its options.
Spec: TypeAlias = "str | Mapping[str, Any]"

#: SNRs of a sweep are within this of 0 dB.
MAX_SNR_DB = 100

#: Most rows of a sweep: what is larger is a slip of the pen.
MAX_ROWS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Sweep(Fields):
    """Every system sends every image ``repeats`` times at every rate and SNR over every channel.

    systems          name in tables and figures → what `build_system` takes
    rates            channel uses per pixel
    snrs_db          dB
    images           files, folders or patterns
    channels         "awgn", "rayleigh", "flowgraph", "air"
    repeats          transmissions of each image, each with noise of its own
    seed             of the noise: transmission r of image i has the seed ``seed + i · repeats + r`` at every point
    metrics          what is measured; see `measures.METRICS`
    metrics_weights  folder of the weights of LPIPS, DISTS, FID and KID; "": torch's cache alone
    report_images    how many images, evenly spaced in the list, are kept for the report's wall of images

    Raises ValueError for values that make no sweep.
    """

    systems: dict
    rates: list[str]
    snrs_db: list[float]
    images: list[str]
    channels: list[str] = field(default_factory=lambda: ["awgn"])
    repeats: int = 1
    seed: int = 0
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    metrics_weights: str = ""
    report_images: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("systems", "rates", "snrs_db", "images", "channels"):
            self.check(name, bool(getattr(self, name)), "a list with at least one entry")
        object.__setattr__(self, "rates", [str(parse_rate(rate)) for rate in self.rates])
        for snr_db in self.snrs_db:
            self.check("snrs_db", abs(parse_snr_db(snr_db)) <= MAX_SNR_DB, f"from -{MAX_SNR_DB} to {MAX_SNR_DB} dB")
        for name, known in (("channels", CHANNELS), ("metrics", METRICS)):
            for given in getattr(self, name):
                if given not in known:
                    raise ValueError(f"{name}: no '{given}'{nearest(given, list(known))}; there are {', '.join(known)}")
        for name in ("rates", "snrs_db", "channels", "metrics"):
            values = getattr(self, name)
            self.check(name, len(set(values)) == len(values), "without repetition")
        self.check("repeats", self.repeats >= 1, "at least 1")
        self.check("seed", 0 <= self.seed < 1 << 32, "a whole number from 0 to 2³²−1")
        self.check("report_images", self.report_images >= 0, "at least 0")
        labels = [str(label) for label in self.systems]
        self.check("systems", all(labels) and len(set(labels)) == len(labels), "a mapping of different names")
        object.__setattr__(self, "systems", dict(zip(labels, self.systems.values())))

    @property
    def points(self) -> list[Point]:
        """Every combination of system, channel, rate and SNR, in the order of the file."""
        return [
            Point(system, channel, rate, snr_db)
            for system in self.systems
            for channel in self.channels
            for rate in self.rates
            for snr_db in self.snrs_db
        ]


@dataclass(frozen=True)
class Point:
    """Where images are compared: a system (its name in the sweep), a channel, a rate such as "1/128", and an SNR in dB."""

    system: str
    channel: str
    rate: str
    snr_db: float


@dataclass(frozen=True)
class Cell:
    """One row of a sweep's table: one transmission of one image.

    number  in the order of the table: by point, then by image, then by repeat
    image   index of the image
    seed    of its noise
    """

    number: int
    point: Point
    image: int
    repeat: int
    seed: int


@dataclass(frozen=True)
class Source:
    """An image of a sweep: its file, its name in tables, and a hash of the file."""

    path: Path
    name: str
    sha256: str


def load_sweep(source: str | os.PathLike, changes: Sequence[str] = ()) -> Sweep:
    """A sweep from its file, or by the name of one that comes with the package, with ``key=value`` changes.

    Raises ValueError for a file that does not exist or is no sweep, a key that sweeps do not have (and names the nearest one),
    or a value that makes no sense.
    """
    path, values = read_yaml(source, "sweep", "rates: [1/128, 1/16]")
    try:
        return build_sweep(values, changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def build_sweep(values: Mapping[str, Any], changes: Sequence[str] = ()) -> Sweep:
    """A sweep from its values. Raises ValueError as `load_sweep` does."""
    values = dict(values)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ValueError(f"'{change}': expected key=value, such as repeats=5")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"'{change}': '{text}' is no YAML value: put it in quotes") from None
    # One entry needs no brackets.
    for key in ("rates", "snrs_db", "images", "channels", "metrics"):
        if isinstance(values.get(key), (str, int, float)) and not isinstance(values[key], bool):
            values[key] = [values[key]]
    if isinstance(values.get("systems"), str):
        values["systems"] = [values["systems"]]
    if isinstance(values.get("systems"), Sequence):
        values["systems"] = _named(values["systems"])
    return Sweep.of(values)


def _named(systems: Sequence[Any]) -> dict[str, Spec]:
    """A list of names of systems as a mapping."""
    named: dict[str, Spec] = {}
    for spec in systems:
        if not isinstance(spec, str):
            raise ValueError(f"systems: {spec!r}: write `NAME: {{system: …}}` for a system with options, without the dash")
        if spec in named:
            raise ValueError(f"systems: '{spec}' is there twice")
        named[spec] = spec
    return named


def find_sources(sweep: Sweep) -> list[Source]:
    """The images of a sweep, each once. Raises ValueError for one that is missing or damaged, or where two have the same name."""
    paths: list[Path] = []
    for given in sweep.images:
        paths += [path for path in find_images(given) if path not in paths]
    names = [path.name for path in paths]
    for path in paths:
        if names.count(path.name) > 1:
            raise ValueError(f"images: two are called {path.name}: tables tell images apart by their names")
        read_image(path)
    return [Source(path, path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def make_cells(sweep: Sweep, images: int) -> list[Cell]:
    """The rows of the sweep's table, in order. Raises ValueError where there are far too many."""
    points = sweep.points
    rows = len(points) * images * sweep.repeats
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows: a sweep may have {MAX_ROWS}: leave out points, images or repeats")
    cells: list[Cell] = []
    for point in points:
        for image in range(images):
            for repeat in range(sweep.repeats):
                cells.append(Cell(len(cells), point, image, repeat, sweep.seed + image * sweep.repeats + repeat))
    return cells


def channel_uses(rate: str, height: int, width: int) -> int:
    """The budget: complex symbols of an image of this size, as a codec sends it, padded to multiples of 16 pixels."""
    return math.ceil(height / BLOCK) * math.ceil(width / BLOCK) * rate_channels(Fraction(rate)) // 2


def shown_images(sweep: Sweep, images: int) -> set[int]:
    """Indices of the images that the report shows: evenly spaced."""
    count = min(sweep.report_images, images)
    return {round(i * (images - 1) / max(count - 1, 1)) for i in range(count)}


def identity(sweep: Sweep, sources: Sequence[Source]) -> dict[str, Any]:
    """What two runs must have in common to have the same table: the sweep's values, and the images themselves."""
    values = asdict(sweep)
    # Where the weights lie does not matter, and neither does where the images lie.
    del values["metrics_weights"]
    values["images"] = {source.name: source.sha256 for source in sources}
    return json.loads(json.dumps(values))
