# SPDX-License-Identifier: GPL-3.0-or-later
"""Received values that no codec sends: what a wrong gain and impulses leave, and what a decoder is told of them."""

from __future__ import annotations

import numpy as np

#: Power over what the noise variances explain, above which the receiver's gain is taken to be wrong.
MOST_POWER = 1.5

#: Share of the strongest symbols that the power is measured without: impulses may have any power.
STRONGEST = 0.01

#: Power of a symbol over 1 + σ², above which it is an impulse: codecs send up to about 60 (images flat but for one place).
IMPULSE = 400.0


def within_limits(values: np.ndarray, noise_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Received symbols as a decoder may see them: complex64 (K,) and float32 (K,) → the same.

    Decoders have no normalisation, so that values several times too strong grow from layer to layer, to infinity. A whole
    burst that is too strong is scaled to the power that unit-power symbols and its noise have; single impulses, and values
    that are not finite, are marked as lost (noise variance +inf, value 0). Whatever is within the limits stays bit for bit.
    """
    lost = ~np.isfinite(values) | ~(noise_var >= 0)
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.abs(values.astype(np.complex128)) ** 2 / (1 + noise_var.astype(np.float64))
    received = power[~lost & np.isfinite(noise_var)]
    gain = 1.0
    # The mean of all is never below that without the strongest: most bursts need no sorting.
    if len(received) and received.mean() > MOST_POWER:
        mean = np.sort(received)[: max(1, round(len(received) * (1 - STRONGEST)))].mean()
        if mean > MOST_POWER:
            gain = mean**-0.5
    lost |= power * gain**2 > IMPULSE
    values = np.where(lost, 0, values if gain == 1 else values * gain).astype(np.complex64)
    return values, np.where(lost, np.inf, noise_var).astype(np.float32)
