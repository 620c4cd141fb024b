# SPDX-License-Identifier: GPL-3.0-or-later
"""The samples of a schedule. The same plan and images give the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..air.modulator import Modulator, fragments
from ..air.preset import find_preset
from ..errors import one_line
from ..images import read_image, to_tensor
from .chirps import chirp
from .schedule import GAP, LEAD, Chirp, Schedule, Transmission, planned_rate


class Waveform:
    """Makes a schedule's samples, piece by piece.

    device  where codecs compute
    say     called with a line for each transmission that cannot be made: silence is sent in its place, so that all others keep
            their time
    unsent  how many those are

    Raises ValueError for systems that cannot run here.
    """

    def __init__(self, schedule: Schedule, device: str = "cpu", say: Callable[[str], None] = lambda line: None):
        self.schedule, self._device, self._say = schedule, device, say
        self._systems = schedule.plan.built()
        self._loaded: dict[str, Any] = {}
        self._modulator = Modulator(find_preset(schedule.plan.preset), schedule.plan.clip_db, schedule.plan.callsign)
        self.unsent = 0
        self._said: set[str] = set()

    def pieces(self) -> Iterator[tuple[np.ndarray, Transmission | Chirp | None]]:
        """complex64 pieces that follow each other, each a burst with the silence behind it; and what they belong to."""
        yield np.zeros(LEAD, np.complex64), None
        for entry in self.schedule.entries:
            if isinstance(entry, Chirp):
                samples = np.zeros(entry.total, np.complex64)
                samples[: entry.length] = max(self.schedule.plan.amplitudes) * chirp(entry.length)
                yield samples, entry
            else:
                for samples in self._transmission(entry):
                    yield samples, entry

    def _transmission(self, entry: Transmission) -> Iterator[np.ndarray]:
        plan, cell = self.schedule.plan, entry.cell
        source = self.schedule.sources[cell.image]
        try:
            image = to_tensor(read_image(source.path))
            coder = self._coder(cell.point.system)
            symbols = coder.encode(image, cell.point.snr_db, planned_rate(cell), image_id=cell.number)
        except ValueError as error:
            self.unsent += 1
            line = f"{source.name}, {cell.point.system}, rate {cell.point.rate}: not sent: {one_line(error)}"
            if line not in self._said:
                self._said.add(line)
                self._say(line)
            yield np.zeros(entry.total, np.complex64)
            return
        scale = cell.point.amplitude * 10 ** (-plan.peak_db(cell.point.snr_db) / 20)
        parts = list(fragments(symbols, plan.burst_symbols, self.schedule.session))
        for (fragment, payload), (_, length) in zip(parts, entry.bursts, strict=True):
            samples = (scale * self._modulator.fragment(fragment, payload)).astype(np.complex64)
            assert len(samples) == length
            silence = GAP if fragment.index + 1 < fragment.count else plan.pause
            yield np.append(samples, np.zeros(silence, np.complex64))

    def _coder(self, name: str):
        if name not in self._loaded:
            self._loaded[name] = self._systems[name].load(self._device)
        return self._loaded[name]
