# SPDX-License-Identifier: GPL-3.0-or-later
"""An OFDM signal whose peaks are cut, as an amplifier at its limit does: differentiable, for training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..air.preset import PRESETS

#: Samples for each of the signal's own: between these lie higher peaks.
OVERSAMPLING = 4

#: Carriers of an OFDM symbol.
CARRIERS = len(PRESETS["ofdm256"].carriers)


def cut_peaks(symbols: Tensor, clip_db: float, passes: int, random: torch.Generator) -> Tensor:
    """Symbols after an OFDM signal with cut peaks: complex (K,), mean |y|² = 1 → (K,).

    Symbols go to carriers in random order with random phases, as on the air. The signal is oversampled, its magnitude cut at
    ``clip_db`` dB above the mean power, and filtered back to its carriers; filtering makes new peaks, hence ``passes``.
    """
    count = len(symbols)
    rows = -(-count // CARRIERS)
    # What the last OFDM symbol has left over is filled from the front, as the modulator does.
    order = torch.randperm(count, generator=random).repeat(-(-rows * CARRIERS // count))[: rows * CARRIERS]
    phases = torch.exp(2j * math.pi * torch.rand(rows * CARRIERS, generator=random))
    order, phases = order.to(symbols.device), phases.to(symbols)
    carriers = (symbols[order] * phases).reshape(rows, CARRIERS)
    length = OVERSAMPLING * CARRIERS
    # The inverse transform of unit-power carriers has samples of mean power CARRIERS / length².
    peak = 10 ** (clip_db / 20) * math.sqrt(CARRIERS) / length
    for _ in range(passes):
        signal = torch.fft.ifft(carriers, n=length)
        signal = signal / (signal.abs() / peak).clamp(min=1)
        carriers = torch.fft.fft(signal)[:, :CARRIERS]
    after = (carriers.flatten() * phases.conj())[:count]
    return torch.empty_like(after).index_copy(0, order[:count], after)
