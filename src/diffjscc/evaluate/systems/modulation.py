# SPDX-License-Identifier: GPL-3.0-or-later
"""Constellations with Gray mapping, and their exact soft demapping, by Sionna."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ...errors import extra
from ...fields import nearest
from ...symbols import Reception

#: Bits per symbol, by name.
CONSTELLATIONS = {"bpsk": 1, "qpsk": 2, "16qam": 4, "64qam": 6}

#: Noise variance that stands for an erasure.
LOST = 1e9


def find_bits_per_symbol(constellation: str) -> int:
    """Raises ValueError for a constellation that does not exist."""
    if constellation not in CONSTELLATIONS:
        near = nearest(constellation, list(CONSTELLATIONS))
        raise ValueError(f"no constellation is called '{constellation}'{near}; there are {', '.join(CONSTELLATIONS)}")
    return CONSTELLATIONS[constellation]


def modulate(bits: np.ndarray, constellation: str) -> np.ndarray:
    """uint8 (N·m,) → complex64 (N,), points of unit mean power."""
    with torch.inference_mode():
        return _mapper(constellation)[0](torch.from_numpy(bits[None]).float())[0].numpy().astype(np.complex64)


def demodulate(reception: Reception, constellation: str) -> np.ndarray:
    """Equalised symbols (N,) → ln p(1)/p(0) of each bit, float32 (N·m,); 0 where a symbol is lost."""
    lost = ~np.isfinite(reception.values) | ~(reception.noise_var < LOST)
    values = np.where(lost, 0, reception.values).astype(np.complex64)
    variance = np.where(lost, LOST, np.maximum(reception.noise_var, 1e-9)).astype(np.float32)
    with torch.inference_mode():
        llrs = _mapper(constellation)[1](torch.from_numpy(values[None]), torch.from_numpy(variance[None]))[0].numpy()
    bits = len(llrs) // max(len(values), 1)
    return np.where(lost.repeat(bits), 0, llrs).astype(np.float32)


@lru_cache(maxsize=8)
def _mapper(constellation: str):
    with extra("evaluate", "modulation"):
        from sionna.phy.mapping import Demapper, Mapper
    bits = CONSTELLATIONS[constellation]
    kind = "pam" if bits == 1 else "qam"
    return Mapper(kind, bits, device="cpu"), Demapper("app", kind, bits, device="cpu")
