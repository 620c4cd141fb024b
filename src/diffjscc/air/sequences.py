# SPDX-License-Identifier: GPL-3.0-or-later
"""Pseudo-random choices that transmitter and receiver share without tables: docs/air-interface.md, section 3."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's 32-bit finaliser, a bijection of uint32."""
    h = np.asarray(values).astype(np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


@lru_cache(maxsize=16)
def scattered_order(count: int) -> np.ndarray:
    """The indices 0 … count − 1, sorted by `mix`: int64 (count,)."""
    return np.argsort(mix(np.arange(1, count + 1)), kind="stable")


@lru_cache(maxsize=64)
def qpsk_sequence(count: int, seed: int) -> np.ndarray:
    """complex64 (count,) of unit QPSK symbols e^{jπ(2q+1)/4}, q the top two bits of mix(seed·2¹⁶ + index)."""
    quadrant = mix(np.arange(count) + (seed << 16)) >> np.uint32(30)
    return np.exp(1j * np.pi / 4 * (2 * quadrant + 1)).astype(np.complex64)
