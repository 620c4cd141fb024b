# SPDX-License-Identifier: GPL-3.0-or-later
"""What carries a system's symbols to its receiver: ideal symbol channels, or a radio.

Radios need GNU Radio, which this package never imports. The blocks' installation announces them as entry points of the group
``diffjscc.radios``, one for each name in `RADIO_CHANNELS`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
from torch import Tensor

from ...channel import CHANNELS as SYMBOL_CHANNELS
from ...channel import draw_gain, transmit, transmit_values
from ...errors import one_line
from ...symbols import Reception, Symbols
from .base import CHANNELS, header_of_budget

RADIO_CHANNELS = tuple(name for name in CHANNELS if name not in SYMBOL_CHANNELS)

ENTRY_POINTS = "diffjscc.radios"


class Radio(Protocol):
    """A channel that GNU Radio makes."""

    def send_symbols(self, symbols: Symbols, snr_db: float, seed: int) -> Reception:
        """Analog symbols as this project's radio sends them; a symbol that does not arrive has the noise variance +inf."""
        ...

    def send_bits(
        self, bits: np.ndarray, bits_per_symbol: int, snr_db: float, seed: int
    ) -> tuple[np.ndarray, dict[str, str | int | float]]:
        """Bits, uint8 (N,), as GNU Radio's stock OFDM chain sends them.

        Returns what the receiver read, float32 (N,): +1 for a one, −1 for a zero, 0 where nothing came; and details.
        """
        ...


def draw_fading(channel: str, seed: int) -> complex:
    """The flat gain that both ends know: that of "rayleigh", and 1 for every other channel."""
    return draw_gain(channel, seed) if channel in SYMBOL_CHANNELS else 1.0


def transport(symbols: Symbols, channel: str, snr_db: float, seed: int) -> Reception:
    """Sends symbols over one of `CHANNELS`. Raises ValueError where it needs GNU Radio and there is none."""
    if channel in RADIO_CHANNELS:
        return find_radio(channel).send_symbols(symbols, snr_db, seed)
    return transmit(symbols, snr_db, draw_fading(channel, seed), seed)


def carry(values: np.ndarray, image: Tensor, budget: int, channel: str, snr_db: float, seed: int) -> Reception:
    """`transport` for a system without a codec: complex64 (K,) of unit mean power, K at most the budget."""
    if channel in RADIO_CHANNELS:
        # A burst's header says how many symbols an image has: the rest of the budget is filled by sending some of them again.
        header = header_of_budget(image, budget, "separate", snr_db)
        reception = transport(Symbols(np.resize(values, budget), header), channel, snr_db, seed)
        return Reception(reception.values[: len(values)], reception.noise_var[: len(values)], reception.snr_db)
    return transmit_values(values, snr_db, draw_fading(channel, seed), seed)


@lru_cache(maxsize=8)
def find_radio(channel: str) -> Radio:
    """The radio of this name. Raises ValueError where the GNU Radio blocks are not installed or cannot be imported."""
    for entry_point in entry_points(group=ENTRY_POINTS, name=channel):
        try:
            return entry_point.load()()
        except ImportError as error:
            raise ValueError(f"channel '{channel}' needs GNU Radio, which cannot be imported ({one_line(error, 150)})") from None
    raise ValueError(
        f"channel '{channel}' needs this project's GNU Radio blocks, which this Python does not have: "
        "build and install gr-diffjscc, or choose awgn or rayleigh"
    )
