# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimating SNR from a burst of symbols alone."""

from __future__ import annotations

import numpy as np

#: What an estimate is kept within, dB: beyond, the estimator's own error rules.
ESTIMATE_RANGE_DB = (-15.0, 30.0)


def estimate_snr_db(values: np.ndarray) -> float:
    """SNR in dB of complex (K,) symbols that were sent with unit mean power and met gain 1 and additive noise.

    An image's symbols have mean |y|² = 1 exactly, so the mean power received is 1 + σ² but for the noise's own
    spread: σ²_est = mean |r|² − 1, with standard deviation √((2σ² + σ⁴)/K). At K = 3072 that is 0.2 dB at 1 dB SNR and
    0.5 dB at 13 dB. A channel with a gain other than 1 must be equalised first; the estimate is wrong otherwise.
    """
    values = values[np.isfinite(values)]
    low, high = ESTIMATE_RANGE_DB
    if not len(values):
        return low
    power = float(np.mean(np.abs(values.astype(np.complex128)) ** 2))
    noise_var = max(power - 1, 10 ** (-high / 10))
    return float(np.clip(-10 * np.log10(noise_var), low, high))
