# SPDX-License-Identifier: GPL-3.0-or-later
"""SNR and noise variance, and the estimation of SNR from the symbols of a burst."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Decibels = TypeVar("Decibels", float, np.ndarray, Tensor)

#: Range of the estimates, dB: outside of it the estimator's own error dominates.
ESTIMATE_RANGE_DB = (-15.0, 30.0)


def noise_variance(snr_db: Decibels) -> Decibels:
    """σ² of the noise on a *complex* symbol of unit power at SNR γ dB: 10^(−γ/10), σ²/2 in each real dimension (paper, eq. 6)."""
    return 10 ** (-snr_db / 10)


def estimate_snr_db(values: np.ndarray) -> float:
    """SNR in dB of complex (K,) symbols that were sent with unit mean power over a channel of gain 1 with additive noise.

    An image's symbols have mean |y|² = 1 exactly, so that the mean received power is 1 + σ² up to the random deviation
    of the noise power: σ²_est = mean |r|² − 1, with standard deviation √((2σ² + σ⁴)/K). At K = 3072 that is 0.2 dB at 1 dB SNR and
    0.5 dB at 13 dB. A channel with a gain other than 1 must be equalised first; the estimate is wrong otherwise.
    """
    values = values[np.isfinite(values)]
    low, high = ESTIMATE_RANGE_DB
    if not len(values):
        return low
    power = float(np.mean(np.abs(values.astype(np.complex128)) ** 2))
    noise_var = max(power - 1, noise_variance(high))
    return float(np.clip(-10 * np.log10(noise_var), low, high))
