# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: what an experiment sends, in a YAML file that a person reads. Transmitter and receiver are given the same file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..air.callsign import check_callsign
from ..air.header import ID_PERIOD, MAX_SIDE, SESSION_PERIOD
from ..air.peaks import AUTO, cut_for, remaining_peak_db
from ..air.preset import MAX_PAYLOAD, PRESETS
from ..errors import one_line
from ..fields import Fields, nearest
from ..images import find_images, read_image
from ..packaged import read_yaml
from ..symbols import parse_rate, parse_snr_db
from .systems import System, build_system

#: Keys of which one value needs no brackets.
LISTS = ("rates", "snrs_db", "images", "amplitudes", "systems")

#: SNRs that a burst's header can carry, dB.
MIN_SNR_DB, MAX_SNR_DB = -24.0, 39.5

#: Chirps of these lengths, samples.
MIN_CHIRP, MAX_CHIRP = 1024, 1 << 22


@dataclass(frozen=True, kw_only=True)
class Plan(Fields):
    """Every system sends every image ``repeats`` times at every rate, SNR encoded for, and amplitude.

    systems        name in tables and figures → what `systems.build_system` takes
    rates          channel uses per pixel
    snrs_db        SNRs that images are encoded for, dB, in half decibels
    images         files, folders or patterns; receivers look for the same names in their folder of originals
    amplitudes     highest amplitudes of the samples, 1 is full scale: each system and the chirp has the same *peak* power
    repeats        transmissions of each image
    seed           of the order of the transmissions
    preset         of the air interface
    burst_symbols  JSCC symbols in a burst
    callsign       that each burst carries, as the law asks of amateurs; "" for none
    clip           where peaks are cut, dB above the mean power; "auto": as the SNR encoded for suggests
    chirp          samples of the chirps by which C/N₀ is measured; 0 for none
    chirp_every    transmissions between two chirps
    pause          silent samples after each transmission
    report_images  how many images, evenly spaced in the list, are shown in the report

    Raises ValueError for values that make no plan.
    """

    systems: dict
    rates: list[str]
    snrs_db: list[float]
    images: list[str]
    amplitudes: list[float] = field(default_factory=lambda: [0.7])
    repeats: int = 1
    seed: int = 0
    preset: str = "ofdm256"
    burst_symbols: int = 6144
    callsign: str = ""
    clip: str = AUTO
    chirp: int = 16384
    chirp_every: int = 16
    pause: int = 4096
    report_images: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("systems", "rates", "snrs_db", "images", "amplitudes"):
            self.check(name, bool(getattr(self, name)), "a list with at least one entry")
        object.__setattr__(self, "rates", [str(parse_rate(rate)) for rate in self.rates])
        for snr_db in self.snrs_db:
            in_range = MIN_SNR_DB <= parse_snr_db(snr_db) <= MAX_SNR_DB and (2 * snr_db).is_integer()
            self.check("snrs_db", in_range, f"half decibels from {MIN_SNR_DB:g} to {MAX_SNR_DB:g} dB")
        self.check("amplitudes", all(0 < a <= 1 for a in self.amplitudes), "above 0, at most 1, which is full scale")
        for name in ("rates", "snrs_db", "amplitudes"):
            values = getattr(self, name)
            self.check(name, len(set(values)) == len(values), "without repetition")
        if self.preset not in PRESETS:
            raise ValueError(f"preset: no '{self.preset}'{nearest(self.preset, list(PRESETS))}; there are {', '.join(PRESETS)}")
        self.check("repeats", self.repeats >= 1, "at least 1")
        self.check("seed", 0 <= self.seed < 1 << 32, "a whole number from 0 to 2³²−1")
        self.check("burst_symbols", 1 <= self.burst_symbols <= MAX_PAYLOAD, f"from 1 to {MAX_PAYLOAD}")
        object.__setattr__(self, "callsign", check_callsign(self.callsign))
        self.check("clip", self.clip == AUTO or _is_above_zero(self.clip), "'auto', or a finite number of dB above 0")
        self.check("chirp", self.chirp == 0 or MIN_CHIRP <= self.chirp <= MAX_CHIRP, f"0, or {MIN_CHIRP} to {MAX_CHIRP} samples")
        self.check("chirp_every", self.chirp_every >= 1, "at least 1")
        self.check("pause", 0 <= self.pause <= 1 << 26, f"from 0 to {1 << 26} samples")
        self.check("report_images", self.report_images >= 0, "at least 0")
        object.__setattr__(self, "systems", {str(label): spec for label, spec in self.systems.items()})
        self.check("systems", all(self.systems), "a mapping of names")

    @property
    def points(self) -> list[Point]:
        """Every combination of system, amplitude, rate and SNR encoded for, in the order of the file."""
        return [
            Point(system, amplitude, rate, snr_db)
            for system in self.systems
            for amplitude in self.amplitudes
            for rate in self.rates
            for snr_db in self.snrs_db
        ]

    @property
    def clip_db(self) -> float | str:
        """As `air.modulator.Modulator` takes it."""
        return AUTO if self.clip == AUTO else float(self.clip)

    def peak_db(self, snr_db: float) -> float:
        """What no sample of an image encoded for ``snr_db`` exceeds, dB above the mean power."""
        return remaining_peak_db(cut_for(snr_db)) if self.clip == AUTO else float(self.clip)

    def built(self) -> dict[str, System]:
        """The systems by name. Raises ValueError for one that does not exist, cannot run here, or lacks a rate."""
        made = {}
        for name, spec in self.systems.items():
            try:
                system = made[name] = build_system(spec)
            except ValueError as error:
                raise ValueError(f"systems.{name}: {one_line(error)}") from None
            for rate in self.rates:
                if system.rates is not None and Fraction(rate) not in system.rates:
                    raise ValueError(f"systems.{name}: no rate {rate}; its codec has {', '.join(map(str, system.rates))}")
        return made


@dataclass(frozen=True)
class Point:
    """Where images are compared: a system (its name in the plan), a peak amplitude, a rate such as "1/128", an SNR in dB."""

    system: str
    amplitude: float
    rate: str
    snr_db: float

    @property
    def channel(self) -> str:
        """What the report calls it, whose points have a channel and no amplitude."""
        return f"amplitude {self.amplitude:g}"


@dataclass(frozen=True)
class Cell:
    """One transmission of one image, and one row of the table.

    number  its image id on the air; in the order of the table: by point, then by image, then by repeat
    image   index of the image
    """

    number: int
    point: Point
    image: int
    repeat: int


@dataclass(frozen=True)
class Source:
    """An image of a plan: its file, its name in tables, its size in pixels, and a hash of the file."""

    path: Path
    name: str
    width: int
    height: int
    sha256: str


def load_plan(path: str | os.PathLike) -> Plan:
    """A plan from its file.

    Raises ValueError, one line, for a file that does not exist or is no plan, a key that plans do not have (and names the nearest
    one), or a value that makes no sense.
    """
    if not os.path.isfile(path):
        raise ValueError(f"plan '{path}' is no file: write one as examples/experiment.yaml is, see docs/guides/experiments.md")
    _, values = read_yaml(path, "plan", "rates: [1/128, 1/16]")
    try:
        return build_plan(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def build_plan(values: Mapping[str, Any]) -> Plan:
    """A plan from its values. Raises ValueError as `load_plan` does."""
    values = dict(values)
    for key in LISTS:
        if isinstance(values.get(key), (str, int, float)) and not isinstance(values[key], bool):
            values[key] = [values[key]]
    if isinstance(values.get("systems"), Sequence):
        names = values["systems"]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("systems: write `NAME: {system: …}` for each system with options, with different names")
        values["systems"] = {name: name for name in names}
    return Plan.of(values)


def find_sources(plan: Plan, originals: str | os.PathLike | None = None) -> list[Source]:
    """The images of a plan, each once, in the order of their transmission.

    originals  a folder in which they are looked for by name, where they lie elsewhere than at the transmitter; a folder among the
               plan's images stands for all images of it

    Raises ValueError for one that is missing, damaged, or too large for the air, and where two have the same name.
    """
    if originals is not None and not Path(originals).is_dir():
        raise ValueError(f"{originals}: no such folder of originals")
    paths: list[Path] = []
    for given in plan.images:
        try:
            paths += [path for path in find_images(_place(given, originals)) if path not in paths]
        except OSError as error:
            raise ValueError(f"images: {one_line(given, 80)}: {one_line(error.strerror or error)}") from None
    names = [path.name for path in paths]
    sources = []
    for path in paths:
        if names.count(path.name) > 1:
            raise ValueError(f"images: two are called {path.name}: tables tell images apart by their names")
        height, width = read_image(path).shape[:2]
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"{path}: {width}×{height} pixels: the air interface carries sides up to {MAX_SIDE}")
        sources.append(Source(path, path.name, width, height, hashlib.sha256(path.read_bytes()).hexdigest()))
    return sources


def _place(given: str, originals: str | os.PathLike | None) -> str | os.PathLike:
    if originals is None:
        return given
    last = Path(given).name
    is_file = Path(last).suffix != "" or any(sign in last for sign in "*?[")
    return Path(originals) / last if is_file and not Path(given).is_dir() else originals


def make_cells(plan: Plan, images: int) -> list[Cell]:
    """The transmissions of a plan, in the order of the table. Raises ValueError where there are more than image ids."""
    points = plan.points
    count = len(points) * images * plan.repeats
    if count > ID_PERIOD:
        raise ValueError(f"{count} transmissions: a plan may have {ID_PERIOD}: leave out points, images or repeats")
    cells: list[Cell] = []
    for point in points:
        for image in range(images):
            for repeat in range(plan.repeats):
                cells.append(Cell(len(cells), point, image, repeat))
    return cells


def identity(plan: Plan, sources: Sequence[Source]) -> dict[str, Any]:
    """What transmitter and receiver must have in common: the plan's values, and the images themselves, wherever they lie."""
    values = asdict(plan)
    del values["report_images"]
    values["images"] = {source.name: source.sha256 for source in sources}
    return json.loads(json.dumps(values))


def session_of(plan: Plan, sources: Sequence[Source]) -> int:
    """The session that a plan's bursts carry: another plan, or other images, have another one in 31 of 32 cases."""
    text = json.dumps(identity(plan, sources), sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % SESSION_PERIOD


def _is_above_zero(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
