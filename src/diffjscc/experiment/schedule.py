# SPDX-License-Identifier: GPL-3.0-or-later
"""When each sample of an experiment is sent. Both ends compute it from the plan and the images' sizes alone.

silence │ chirp │ silence, half as long │ transmission │ pause │ transmission │ pause │ … │ chirp │ …
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..air.header import MAX_FRAGMENTS
from ..air.preset import find_preset
from ..evaluate.plan import channel_uses
from .plan import Cell, Plan, Source, make_cells, session_of

#: Silent samples before the first chirp, and between the bursts of an image.
LEAD, GAP = 4096, 64


@dataclass(frozen=True)
class Chirp:
    """A chirp: its first sample, and its samples without the silence behind it."""

    begin: int
    length: int

    @property
    def total(self) -> int:
        """Samples with the silence."""
        return self.length + self.length // 2


@dataclass(frozen=True)
class Transmission:
    """An image on the air.

    cell    what is sent
    bursts  (first sample, samples) of each fragment
    total   samples with gaps and pause
    """

    cell: Cell
    bursts: tuple[tuple[int, int], ...]
    total: int

    @property
    def begin(self) -> int:
        """Its first sample."""
        return self.bursts[0][0]


class Schedule:
    """The samples of a plan.

    session  number that all bursts carry
    cells    transmissions in the order of the table
    entries  `Chirp` and `Transmission`, in the order of time
    length   samples in all

    Raises ValueError for an image that takes too many bursts, and for more transmissions than the air interface can number.
    """

    def __init__(self, plan: Plan, sources: Sequence[Source]):
        self.plan, self.sources = plan, list(sources)
        self.session = session_of(plan, sources)
        self.cells = make_cells(plan, len(self.sources))
        self._preset = find_preset(plan.preset)
        self.entries: list[Chirp | Transmission] = []
        self.length = LEAD
        for place, number in enumerate(_order(plan, len(self.cells))):
            if plan.chirp and place % plan.chirp_every == 0:
                self.entries.append(Chirp(self.length, plan.chirp))
                self.length += self.entries[-1].total
            sent = self._transmission(self.cells[number])
            self.entries.append(sent)
            self.length += sent.total
        self.by_number = {entry.cell.number: entry for entry in self.entries if isinstance(entry, Transmission)}

    @property
    def chirps(self) -> list[Chirp]:
        return [entry for entry in self.entries if isinstance(entry, Chirp)]

    def _transmission(self, cell: Cell) -> Transmission:
        source = self.sources[cell.image]
        total = channel_uses(cell.point.rate, source.height, source.width)
        count = math.ceil(total / self.plan.burst_symbols)
        if count > MAX_FRAGMENTS:
            raise ValueError(
                f"{source.name} at rate {cell.point.rate} takes {count} bursts of {self.plan.burst_symbols} symbols, at most "
                f"{MAX_FRAGMENTS} are allowed: raise burst_symbols, or send smaller images"
            )
        bursts, begin = [], self.length
        for index in range(count):
            length = (index + 1) * total // count - index * total // count
            bursts.append((begin, self._preset.burst_len(length, bool(self.plan.callsign))))
            begin += bursts[-1][1] + (GAP if index + 1 < count else self.plan.pause)
        return Transmission(cell, tuple(bursts), begin - self.length)

    def seconds(self, sample_rate: float) -> float:
        """How long it lasts."""
        return self.length / sample_rate


def _order(plan: Plan, count: int) -> list[int]:
    """Numbers of the cells in the order of time: shuffled within a repeat, so that a slow change of the channel meets all alike."""
    random = np.random.default_rng(plan.seed)
    numbers: list[int] = []
    for repeat in range(plan.repeats):
        numbers += random.permutation(np.arange(repeat, count, plan.repeats)).tolist()
    return numbers


def planned_rate(cell: Cell) -> Fraction:
    """The cell's rate, channel uses per pixel."""
    return Fraction(cell.point.rate)
