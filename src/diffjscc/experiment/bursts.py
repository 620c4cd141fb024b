# SPDX-License-Identifier: GPL-3.0-or-later
"""What a receiver tells of a burst, and whose burst of a schedule it is."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..air.header import Fragment, codec_number, unpack_image
from ..air.preset import BANDWIDTH, find_preset
from .schedule import Schedule, planned_rate

#: Taps of a channel whose power is this far below the strongest one's are noise, dB.
TAP_FLOOR_DB = 20.0


@dataclass(frozen=True)
class ReceivedBurst:
    """A burst off the air.

    packed        the header's image part, 11 bytes
    start         its first sample in the receiver's stream
    values        complex64 (n,), equalised
    noise_var     float32 (n,); +inf for an erasure
    snr_db        in the occupied bandwidth
    cfo           carrier offset, cycles/sample
    clock_offset  the transmitter's sampling period over the receiver's, less 1
    channel       complex64 (fft_len,), lowest frequency first; None where it is not known
    """

    packed: bytes
    start: int
    values: np.ndarray
    noise_var: np.ndarray
    snr_db: float
    cfo: float
    clock_offset: float
    channel: np.ndarray | None = None


class Matcher:
    """Finds the transmission of a schedule that a burst belongs to.

    foreign  reason → bursts that belong to none
    """

    def __init__(self, schedule: Schedule):
        self._schedule = schedule
        self._numbers = {name: codec_number(system.on_air) for name, system in schedule.plan.built().items()}
        self._names = {codec_number(system.on_air): system.on_air for system in schedule.plan.built().values()}
        self.foreign: Counter[str] = Counter()

    def find(self, packed: bytes) -> Fragment | None:
        """The fragment that a header announces; None where the schedule has no such burst, and it is counted."""
        try:
            fragment = unpack_image(packed, self._codec)
        except ValueError:
            self.foreign["another codec"] += 1
            return None
        if fragment.session != self._schedule.session:
            self.foreign[f"session {fragment.session}"] += 1
            return None
        entry = self._schedule.by_number.get(fragment.header.image_id)
        if entry is None or not self._is_planned(fragment, entry):
            self.foreign["not in the plan"] += 1
            return None
        return fragment

    def _codec(self, number: int) -> str:
        if number not in self._names:
            raise ValueError(f"codec number {number} is not in the plan")
        return self._names[number]

    def _is_planned(self, fragment: Fragment, entry) -> bool:
        cell, header = entry.cell, fragment.header
        source = self._schedule.sources[cell.image]
        return (
            (header.width, header.height) == (source.width, source.height)
            and header.rate == planned_rate(cell)
            and header.tx_snr_db == cell.point.snr_db
            and fragment.count == len(entry.bursts)
            and codec_number(header.codec) == self._numbers[cell.point.system]
        )


def delay_spread(channel: np.ndarray | None, preset: str) -> float:
    """RMS delay spread of a channel over the carriers, complex (fft_len,), in samples; NaN where there is none.

    What lies 20 dB below the strongest tap counts as noise. The bandwidth limits what can be told apart to about a sample; the
    window's own spread is taken off.
    """
    if channel is None or not np.isfinite(channel).all() or not np.abs(channel).any():
        return math.nan
    parameters = find_preset(preset)
    places = np.arange(parameters.fft_len) - parameters.fft_len // 2
    edge = int(BANDWIDTH * parameters.fft_len) // 2 + 1
    window = np.cos(np.pi / 2 * np.clip(places / edge, -1, 1)) ** 2
    window[~np.isin(places, parameters.carriers)] = 0
    found, least = (_spread(np.fft.ifft(np.fft.ifftshift(window * values))) for values in (channel, np.ones(len(places))))
    return math.sqrt(max(found - least, 0.0))


def _spread(taps: np.ndarray) -> float:
    """Variance of the delays of taps, samples², about their circular mean."""
    power = np.abs(taps) ** 2
    power[power < power.max() * 10 ** (-TAP_FLOOR_DB / 10)] = 0
    length = len(taps)
    # Delays from the strongest tap, from −half to half of the period.
    delays = (np.arange(length) - int(power.argmax()) + length // 2) % length - length // 2
    mean = float(np.average(delays, weights=power))
    return float(np.average((delays - mean) ** 2, weights=power))
