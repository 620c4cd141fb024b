# SPDX-License-Identifier: GPL-3.0-or-later
"""What a burst looks like in time and frequency: docs/air-interface.md, sections 2 to 4."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .sequences import qpsk_sequence

#: Version of the air interface; a receiver passes over bursts of another.
VERSION = 1

#: Samples of one half of the preamble.
CHIRP_LEN = 128

#: Occupied bandwidth over the sample rate: that of the chirps, and of the carriers.
BANDWIDTH = 13 / 16

#: One carrier in this many is a pilot, and the pattern moves by PILOT_STEP carriers a symbol, so that it repeats after as many.
PILOT_SPACING, PILOT_STEP = 13, 5

#: Resource elements that the coded header takes.
HEADER_ELEMENTS = 768

#: The longest payload of one burst, symbols.
MAX_PAYLOAD = 8191

#: Seeds of `qpsk_sequence`.
PILOT_SEED, HEADER_SEED, PAYLOAD_SEED = 1, 2, 3


@dataclass(frozen=True)
class Preset:
    """The air interface's parameters for one number of subcarriers.

        chirp up │ chirp down │ header symbols │ payload symbols
          128    │    128     │  each a cyclic prefix and fft_len samples

    fft_len   subcarriers in the sample rate, 64 or 256
    cp_len    samples of the cyclic prefix

    Raises ValueError for sizes that the receiver does not know.
    """

    fft_len: int = 256
    cp_len: int = 16

    def __post_init__(self):
        if self.fft_len not in (64, 256):
            raise ValueError(f"fft_len = {self.fft_len}: must be 64 or 256")
        if not 8 <= self.cp_len <= self.fft_len // 4:
            raise ValueError(f"cp_len = {self.cp_len}: must be between 8 and a quarter of fft_len, {self.fft_len // 4}")

    @cached_property
    def carriers(self) -> np.ndarray:
        """Occupied subcarriers by increasing frequency, without the one at zero: int (U,)."""
        half = int(self.fft_len * BANDWIDTH) // 2
        return np.array([k for k in range(-half, half + 1) if k])

    @property
    def pilots_per_symbol(self) -> int:
        return len(self.carriers) // PILOT_SPACING

    @property
    def data_per_symbol(self) -> int:
        """Carriers of a symbol that are not pilots."""
        return len(self.carriers) - self.pilots_per_symbol

    @property
    def header_symbols(self) -> int:
        """OFDM symbols that the header takes."""
        return HEADER_ELEMENTS // self.data_per_symbol

    def payload_symbols(self, length: int) -> int:
        """OFDM symbols that a payload of ``length`` symbols takes."""
        return math.ceil(length / self.data_per_symbol)

    def burst_len(self, length: int) -> int:
        """Samples of a burst with a payload of ``length`` symbols."""
        return 2 * CHIRP_LEN + (self.header_symbols + self.payload_symbols(length)) * (self.fft_len + self.cp_len)

    @cached_property
    def pilot_positions(self) -> np.ndarray:
        """Which of ``carriers`` are pilots, for each of the PILOT_SPACING symbols of the pattern: int (13, P)."""
        first = (PILOT_SPACING // 2 + PILOT_STEP * np.arange(PILOT_SPACING)) % PILOT_SPACING
        return first[:, None] + PILOT_SPACING * np.arange(self.pilots_per_symbol)

    @cached_property
    def pilot_values(self) -> np.ndarray:
        """What the pilots send: complex64 (13, P)."""
        return qpsk_sequence(PILOT_SPACING * self.pilots_per_symbol, PILOT_SEED).reshape(PILOT_SPACING, -1)

    @cached_property
    def header_values(self) -> np.ndarray:
        """What the coded header is multiplied by: complex64 (768,)."""
        return qpsk_sequence(HEADER_ELEMENTS, HEADER_SEED)

    @cached_property
    def preamble(self) -> np.ndarray:
        """An up-chirp over the occupied bandwidth, then its conjugate: complex64 (256,), constant modulus 1."""
        time = np.arange(CHIRP_LEN) - (CHIRP_LEN - 1) / 2
        up = np.exp(1j * np.pi * BANDWIDTH / CHIRP_LEN * time**2)
        return np.concatenate((up, up.conj())).astype(np.complex64)


#: The formats by name.
PRESETS = {"ofdm64": Preset(64), "ofdm256": Preset(256)}


def find_preset(name: str) -> Preset:
    """The format of a name. Raises ValueError for one that does not exist."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
