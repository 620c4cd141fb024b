# SPDX-License-Identifier: GPL-3.0-or-later
"""Block error rates of codes and constellations, measured once, and the choice among them that they allow.

The table comes from `python tests/bench/ldpc.py --table`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .channel_codes import find_code
from .modulation import find_bits_per_symbol

TABLE = Path(__file__).with_name("error_rates.json")

#: Below the lowest measured rate, the last two points' slope goes on, at least so many decades a decibel.
LEAST_SLOPE = 2.0

#: Power gains |h|² of Rayleigh fading that the mean over it is taken of: the middles of so many equally likely parts.
FADING_STEPS = 256


@dataclass(frozen=True)
class Configuration:
    """A code and a constellation, by their names."""

    code: str
    constellation: str


@lru_cache(maxsize=1)
def load_table() -> dict[Configuration, tuple[np.ndarray, np.ndarray]]:
    """SNRs in dB, ascending, and the block error rates there."""
    rows = json.loads(TABLE.read_text())["rates"]
    return {
        Configuration(code, constellation): (np.array(points)[:, 0], np.array(points)[:, 1])
        for code, by_constellation in rows.items()
        for constellation, points in by_constellation.items()
    }


def block_error_rate(configuration: Configuration, snr_db: np.ndarray) -> np.ndarray:
    """At each SNR: interpolated in the logarithm; 1 below the table. Above it, it falls on as between the last two points."""
    snrs, rates = load_table()[configuration]
    log = np.log10(rates)
    slope = min((log[-1] - log[-2]) / (snrs[-1] - snrs[-2]), -LEAST_SLOPE) if len(snrs) > 1 else -LEAST_SLOPE
    value = np.where(snr_db > snrs[-1], log[-1] + slope * (snr_db - snrs[-1]), np.interp(snr_db, snrs, log))
    return np.where(snr_db < snrs[0], 1.0, 10.0**value)


@lru_cache(maxsize=1024)
def success(configuration: Configuration, blocks: int, snr_db: float, fading: bool) -> float:
    """Probability that all of so many blocks arrive; with Rayleigh fading, unknown to the sender, the mean over it."""
    gains_db = np.zeros(1)
    if fading:
        gains_db = 10 * np.log10(-np.log1p(-(np.arange(FADING_STEPS) + 0.5) / FADING_STEPS))
    return float(np.mean((1 - block_error_rate(configuration, snr_db + gains_db)) ** blocks))


def find_best(codes: Sequence[str], constellations: Sequence[str], budget: int, snr_db: float, fading: bool) -> list[Configuration]:
    """Configurations for a budget of channel uses at an SNR, best first.

    The best has the highest p · log₂(bits), where p is the probability that all blocks arrive: PSNR grows about as the logarithm
    of the bits, and an image that fails is worth nothing. Those that fail more often than not are left out unless all do.
    """
    scored = []
    for configuration in load_table():
        if configuration.code not in codes or configuration.constellation not in constellations:
            continue
        blocks = find_code(configuration.code).split(budget, find_bits_per_symbol(configuration.constellation))
        bits = sum(block.bits for block in blocks)
        if bits > 1:
            p = success(configuration, len(blocks), float(snr_db), fading)
            scored.append((p > 0.5, p * math.log2(bits), configuration))
    scored.sort(key=lambda row: row[:2], reverse=True)
    likely = [configuration for ok, _, configuration in scored if ok]
    return likely or [configuration for _, _, configuration in scored[:1]]
