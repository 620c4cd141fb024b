# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels for training and for scripts: differentiable in the sent symbols, seeded by a generator.

The noise variance σ² is that of a *complex* symbol, σ²/2 in each real dimension; γ = P/σ² with P = 1 (paper, eq. 6).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .snr import noise_variance
from .symbols import Reception, Symbols, parse_snr_db

CHANNELS = ("awgn", "rayleigh")


def complex_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """w ~ CN(0, 1), complex64, with the shape of ``like``."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, dtype=torch.complex64, device=device, generator=generator).to(like.device)


def awgn(symbols: Tensor, snr_db: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """ŷ = y + w, w ~ CN(0, σ²).

    symbols   complex (N, …), unit mean power
    snr_db    (N,)
    """
    sigma = noise_variance(snr_db).sqrt().reshape(-1, *(1,) * (symbols.ndim - 1))
    return symbols + sigma * complex_noise(symbols, generator)


def draw_gain(channel: str, seed: int) -> complex:
    """The channel gain h of one image: 1 for "awgn", h ~ CN(0, 1) for "rayleigh" (slow, flat fading).

    Raises ValueError for another channel.
    """
    if channel not in CHANNELS:
        raise ValueError(f"channel {channel!r} is not one of {', '.join(CHANNELS)}")
    if channel == "awgn":
        return 1.0
    return complex(torch.randn(1, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed)))


def transmit(symbols: Symbols, snr_db: float, gain: complex = 1.0, seed: int = 0, erasures: float = 0.0) -> Reception:
    """One image's symbols through ``gain`` and noise; see `transmit_values`."""
    return transmit_values(symbols.values, snr_db, gain, seed, erasures)


def transmit_values(values: np.ndarray, snr_db: float, gain: complex = 1.0, seed: int = 0, erasures: float = 0.0) -> Reception:
    """Symbols, complex64 (K,), through ``gain`` and noise, then equalised by zero forcing: ŷ = (h·y + w) / h.

    snr_db    P/σ², dB. After the equaliser the noise on every symbol has variance σ²/|h|².
    seed      of noise and erasures
    erasures  probability that a symbol is erased; the receiver knows which ones are (noise variance +inf)

    Raises ValueError for an SNR that is not finite, a gain of zero or a probability outside [0, 1].
    """
    snr_db = parse_snr_db(snr_db)
    if gain == 0:
        raise ValueError("gain = 0: nothing arrives; give a channel gain other than zero")
    if not 0 <= erasures <= 1:
        raise ValueError(f"erasures = {erasures}: must be a probability, 0 to 1")
    # Not the seed that draw_gain uses, so that gain and noise are independent.
    generator = torch.Generator().manual_seed((seed << 1) + 1)
    sent = torch.from_numpy(values)[None] * gain
    received = awgn(sent, torch.tensor([snr_db]), generator)[0] / gain
    noise_var = np.full(len(values), noise_variance(snr_db) / abs(gain) ** 2, np.float32)
    noise_var[torch.rand(len(noise_var), generator=generator).numpy() < erasures] = np.inf
    return Reception(received.numpy().astype(np.complex64), noise_var, snr_db, fading=gain)
