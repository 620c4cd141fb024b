# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets, and where a burst's carriers, pilots and preamble lie: docs/air-interface.md, sections 2 and 4."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .sequences import qpsk_sequence

#: Version of the air interface; a receiver ignores bursts of another.
VERSION = 1

#: Version of the bursts that carry a callsign.
CALLSIGN_VERSION = 2

#: Samples of a chirp, and of the preamble: one chirp up, one down.
CHIRP_LEN = 128
PREAMBLE_LEN = 2 * CHIRP_LEN

#: Occupied bandwidth over the sample rate: that of the chirps and of the carriers.
BANDWIDTH = 13 / 16

#: One carrier in PILOT_SPACING is a pilot. The pattern moves by PILOT_STEP carriers in each OFDM symbol, and so repeats after
#: PILOT_SPACING symbols.
PILOT_SPACING, PILOT_STEP = 13, 5

#: Resource elements of the coded header.
HEADER_ELEMENTS = 768

#: The longest payload of one burst, symbols.
MAX_PAYLOAD = 8191

#: Seeds of `qpsk_sequence`.
PILOT_SEED, HEADER_SEED, PAYLOAD_SEED, CALLSIGN_SEED = 1, 2, 3, 4


@dataclass(frozen=True)
class Preset:
    """The air interface's parameters for one number of subcarriers.

        chirp up │ chirp down │ header symbols │ payload symbols
          128    │    128     │  each a cyclic prefix and fft_len samples

    fft_len   subcarriers in the sample rate, 64 or 256
    cp_len    samples of the cyclic prefix
    sample_rate  samples/s that transmitter and receiver use; None where users choose it

    Raises ValueError for sizes that the air interface does not have.
    """

    fft_len: int = 256
    cp_len: int = 16
    sample_rate: float | None = None

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
        """Carriers of an OFDM symbol that are pilots."""
        return len(self.carriers) // PILOT_SPACING

    @property
    def data_per_symbol(self) -> int:
        """Carriers of an OFDM symbol that are not pilots."""
        return len(self.carriers) - self.pilots_per_symbol

    @property
    def header_symbols(self) -> int:
        """OFDM symbols of the header."""
        return HEADER_ELEMENTS // self.data_per_symbol

    def payload_symbols(self, length: int) -> int:
        """OFDM symbols of a payload of ``length`` symbols."""
        return math.ceil(length / self.data_per_symbol)

    def symbols_in_front(self, with_callsign: bool) -> int:
        """OFDM symbols before the payload: those of the header, and as many of a callsign."""
        return self.header_symbols * (2 if with_callsign else 1)

    def burst_len(self, length: int, with_callsign: bool = False) -> int:
        """Samples of a burst with a payload of ``length`` symbols."""
        symbols = self.symbols_in_front(with_callsign) + self.payload_symbols(length)
        return PREAMBLE_LEN + symbols * (self.fft_len + self.cp_len)

    @cached_property
    def pilot_positions(self) -> np.ndarray:
        """Indices into ``carriers`` of the pilots, for each OFDM symbol of the pattern: int (13, P)."""
        first = (PILOT_SPACING // 2 + PILOT_STEP * np.arange(PILOT_SPACING)) % PILOT_SPACING
        return first[:, None] + PILOT_SPACING * np.arange(self.pilots_per_symbol)

    @cached_property
    def pilot_values(self) -> np.ndarray:
        """Values of the pilots, for each OFDM symbol of the pattern: complex64 (13, P)."""
        return qpsk_sequence(PILOT_SPACING * self.pilots_per_symbol, PILOT_SEED).reshape(PILOT_SPACING, -1)

    @cached_property
    def header_values(self) -> np.ndarray:
        """The QPSK sequence that scrambles the coded header: complex64 (768,)."""
        return qpsk_sequence(HEADER_ELEMENTS, HEADER_SEED)

    @cached_property
    def callsign_values(self) -> np.ndarray:
        """The QPSK sequence that scrambles the coded callsign: complex64 (768,)."""
        return qpsk_sequence(HEADER_ELEMENTS, CALLSIGN_SEED)

    @cached_property
    def preamble(self) -> np.ndarray:
        """An up-chirp over the occupied bandwidth, then its conjugate: complex64 (256,), constant modulus 1."""
        time = np.arange(CHIRP_LEN) - (CHIRP_LEN - 1) / 2
        up = np.exp(1j * np.pi * BANDWIDTH / CHIRP_LEN * time**2)
        return np.concatenate((up, up.conj())).astype(np.complex64)


#: Samples/s of the presets for sound: 53/64 of it, which `hf` occupies with the carriers' own width, are 2385 Hz. Sound cards'
#: rates are 25/9 (8 kHz), 245/16 (44.1 kHz) and 50/3 (48 kHz) times as high.
SOUND_RATE = 2880.0

#: The presets by name. `hf` has the carrier spacing (45 Hz) and prefix (5.6 ms) that Digital Radio Mondiale chose against the
#: ionosphere. `fm` is for a channel that is flat and does not change, `room` for echoes of up to 20 ms.
PRESETS = {
    "ofdm64": Preset(64),
    "ofdm256": Preset(256),
    "hf": Preset(64, 16, SOUND_RATE),
    "fm": Preset(256, 16, SOUND_RATE),
    "room": Preset(256, 64, SOUND_RATE),
}

#: The presets for sound.
SOUND_PRESETS = tuple(name for name, preset in PRESETS.items() if preset.sample_rate == SOUND_RATE)


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises ValueError for a name that does not exist."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
