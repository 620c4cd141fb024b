# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a sweep: finds what is not yet computed, gives it to workers, keeps each row, and writes the tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import one_line
from ..images import read_image
from .journal import FEATURES, Journal, write_whole
from .measures import SET_METRICS, Measures
from .plan import Cell, Point, Source, Sweep, channel_uses, find_sources, identity, make_cells, shown_images
from .pool import Pool, ProcessSlot, Slot, Unit
from .systems import build_system
from .systems.transports import RADIO_CHANNELS, find_radio
from .table import SUMMARY, SUMMARY_CSV, TABLE, TIMES, summarise, table_rows, write_csv, write_parquet
from .worker import Build, WorkerSettings

if TYPE_CHECKING:
    from .cluster import Cluster


@dataclass
class Results:
    """What a sweep has given so far.

    rows      of the table, one a transmission, in order
    summary   one a point
    failures  in one line each: cells without a row, and why
    missing   in one line each: metrics that could not be measured, and why
    images    cell number → received image for the report, WebP
    words     what the report says of an image that is in the means or not: of an experiment, that it was received
    """

    sweep: Sweep
    sources: list[Source]
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    images: dict[int, Path] = field(default_factory=dict)
    words: dict[str, str] = field(
        default_factory=lambda: {"sent": "sent", "could": "could be sent", "cannot": "cannot be sent", "could_not": "could not"}
    )


class Progress:
    """Is told how far a sweep is: nothing of it is shown here."""

    def begin(self, rows: int, finished: int) -> None:
        """``rows`` in all, ``finished`` of them in earlier runs."""

    def row(self) -> None:
        """One more row is finished, or given up."""

    def say(self, line: str) -> None:
        """A line for the person who waits: a metric that is left out."""

    def fail(self, line: str) -> None:
        """A cell that has no row, and why."""


class SweepRun:
    """A sweep and the folder of its results.

    processes  of this machine, or of the cluster; None: as many as there are CPUs
    cluster    address of a Ray cluster, see `cluster.Cluster`; "": this machine's processes
    build      makes systems; called here, and in each worker

    Raises ValueError for whatever would keep the sweep from running: before anything long begins.
    """

    def __init__(
        self,
        sweep: Sweep,
        out: str | os.PathLike,
        processes: int | None = None,
        cluster: str = "",
        build: Build = build_system,
        progress: Progress | None = None,
    ):
        self.sweep, self.out = sweep, Path(out)
        self._processes, self._progress = processes, progress or Progress()
        self.sources = find_sources(sweep)
        shapes = [read_image(source.path).shape for source in self.sources]
        self.sizes = [(shape[0], shape[1]) for shape in shapes]
        self.cells = make_cells(sweep, len(self.sources))
        self._settings = WorkerSettings(dict(sweep.systems), tuple(sweep.metrics), sweep.metrics_weights, build)
        if sweep.metrics_weights and not Path(sweep.metrics_weights).is_dir():
            raise ValueError(f"metrics_weights: no folder is called {sweep.metrics_weights}")
        self._measures = Measures(sweep.metrics, sweep.metrics_weights)
        self._shown = shown_images(sweep, len(self.sources))
        self._failures: list[str] = []
        # Before the folder is made: a sweep that cannot be run leaves nothing behind.
        check_systems(sweep, build)
        self._cluster = _connect(cluster, processes) if cluster else None
        try:
            self._journal = Journal(out, identity(sweep, self.sources))
        except BaseException:
            self._disconnect()
            raise

    def run(self) -> Results:
        """Computes what is missing and writes the tables, also when it is interrupted by an exception."""
        todo = [cell for cell in self.cells if cell.number not in self._journal.rows]
        for line in self._measures.missing:
            self._progress.say(line)
        self._progress.begin(len(self.cells), len(self.cells) - len(todo))
        try:
            if todo:
                self._compute(todo)
        finally:
            results = self._write()
            self._journal.close()
            self._disconnect()
        return results

    def _compute(self, todo: Sequence[Cell]) -> None:
        units = make_units(todo)
        pool = Pool(self._slots(len(units)), lambda image: read_image(self.sources[image].path), self._budget, self._is_shown)
        with closing(pool.run(units)) as outcomes:
            for outcome in outcomes:
                cell, done = outcome.cell, outcome.done
                if done is None:
                    self._fail(cell, outcome.failure)
                else:
                    self._journal.add(cell.number, done.row, done.times, done.image, done.features)
                self._progress.row()

    def _slots(self, units: int) -> list[Slot]:
        if self._cluster is not None:
            count = self._processes or self._cluster.room()
            return [self._cluster.slot(self._settings) for _ in range(min(count, units))]
        count = self._processes or len(os.sched_getaffinity(0))
        return [ProcessSlot(self._settings) for _ in range(min(count, units))]

    def _disconnect(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def _budget(self, cell: Cell) -> int:
        return channel_uses(cell.point.rate, *self.sizes[cell.image])

    def _is_shown(self, cell: Cell) -> bool:
        return cell.repeat == 0 and cell.image in self._shown

    def _fail(self, cell: Cell, failure: str) -> None:
        line = f"{describe(cell.point)}, {self.sources[cell.image].name}, repeat {cell.repeat}: {failure}"
        self._failures.append(line)
        self._progress.fail(line)

    def _write(self) -> Results:
        self._journal.reload()
        rows, times = table_rows(self.sweep, self.cells, self.sources, self.sizes, self._journal)
        measured = "Inception" if any(name in self.sweep.metrics for name in SET_METRICS) else ""
        original = self._original_features if measured and self._journal_has_features() else None
        summary = summarise(self.sweep, self.cells, self._journal, original, lambda: rows)
        if rows:
            write_parquet(self.out / TABLE, rows)
            write_parquet(self.out / TIMES, times)
            write_parquet(self.out / SUMMARY, summary)
            write_csv(self.out / SUMMARY_CSV, summary)
        images = {cell.number: self._journal.image_path(cell.number) for cell in self.cells if self._is_shown(cell)}
        images = {number: path for number, path in images.items() if number in self._journal.rows and path.is_file()}
        return Results(self.sweep, self.sources, rows, summary, self._failures, self._measures.missing, images)

    def _journal_has_features(self) -> bool:
        return any((self.out / FEATURES).iterdir())

    def _original_features(self, image: int) -> np.ndarray:
        path = self.out / FEATURES / f"original-{image:04}.npy"
        if not path.is_file():
            features = self._measures.features(read_image(self.sources[image].path))
            if features is None:
                return np.zeros((0, 2048), np.float32)
            write_whole(path, features)
        return np.load(path, allow_pickle=False)


def check_systems(sweep: Sweep, build: Build) -> None:
    """Builds every system once. Raises ValueError for one that does not exist, cannot run here or lacks a rate."""
    for name, spec in sweep.systems.items():
        try:
            system = build(spec)
        except ValueError as error:
            raise ValueError(f"systems.{name}: {one_line(error)}") from None
        for rate in sweep.rates:
            if system.rates is not None and Fraction(rate) not in system.rates:
                raise ValueError(f"systems.{name}: no rate {rate}; its codec has {', '.join(map(str, system.rates))}")
    for channel in sweep.channels:
        if channel in RADIO_CHANNELS:
            find_radio(channel)


def make_units(cells: Sequence[Cell]) -> list[Unit]:
    """Cells of the same image, system, channel and rate together, image by image, so that the time left can be estimated."""
    order = {point: number for number, point in enumerate(dict.fromkeys(cell.point for cell in cells))}
    units: dict[Any, Unit] = {}
    for cell in sorted(cells, key=lambda cell: (cell.image, order[cell.point], cell.repeat)):
        point = cell.point
        key = cell.image, point.system, point.channel, point.rate
        units.setdefault(key, Unit(cell.image)).cells.append(cell)
    return list(units.values())


def describe(point: Point) -> str:
    """A point in words."""
    return f"{point.system}, {point.channel}, rate {point.rate}, {point.snr_db:g} dB"


def _connect(address: str, processes: int | None) -> Cluster:
    """A cluster with room for the processes. Raises ValueError where it cannot be reached, or has none."""
    from .cluster import Cluster

    cluster = Cluster(address)
    room = cluster.room()
    wanted = processes or max(room, 1)
    if wanted > room:
        cluster.close()
        raise ValueError(f"{wanted} workers: the Ray cluster has room for {room}: give fewer --processes, or add machines")
    return cluster
