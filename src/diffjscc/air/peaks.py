# SPDX-License-Identifier: GPL-3.0-or-later
"""Low peaks, for transmitters that are limited by their peak power: docs/air-interface.md, section 7.

JSCC symbols are nearly Gaussian, and so is their OFDM signal: one sample in 10⁴ is 9.6 dB above the mean. An amplifier that must
carry such peaks sends on average a ninth of what it can. So peaks are cut:

    carriers ─► IFFT, oversampled ─► cut ─► FFT ─► carriers alone ─┐
       ▲                                                           │
       └───────────────────────────── PASSES times ────────────────┘

Between samples lie higher peaks than on them, hence the oversampling. Filtering, which keeps what the cut spreads out of the
band, makes new peaks, hence the passes. What the cut does within the band is noise to the receiver, and part of the SNR that it
measures. With Gaussian symbols, at a peak power P and a noise variance σ²:

    effective SNR = 1 / (1/SDR(cut) + PAPR(cut) σ²/P)

A deep cut gives power and takes SDR (signal over distortion). It pays at a low SNR and harms at a high one: `cut_for` follows the
cut that makes the effective SNR highest (tests/bench/peak_power.py), and stays above it at low SNRs, for receivers which hear the
image better than its encoder has assumed.
"""

from __future__ import annotations

import math

import numpy as np

from .preset import Preset

#: For a clip level: chosen by the SNR that is encoded for.
AUTO = "auto"

#: Samples for each of the signal's own, and how often peaks are cut. More of either gains less than 0.2 dB.
OVERSAMPLING, PASSES = 3, 4

#: Cut = FIRST + SLOPE · SNR, within limits, dB.
_FIRST, _SLOPE, _LEAST, _MOST = 2.0, 0.24, 1.5, 9.0


def cut_for(snr_db: float) -> float:
    """Where to cut the peaks of an image that is encoded for ``snr_db``, dB above the mean power."""
    return float(np.clip(_FIRST + _SLOPE * snr_db, _LEAST, _MOST))


def remaining_peak_db(cut_db: float) -> float:
    """What few oversampled samples exceed after `lower_peaks`, one in 10⁴, dB above the mean power; for cuts from 1.5 to 9 dB."""
    return 3.8 + 0.25 * cut_db + 0.045 * cut_db**2


def lower_peaks(values: np.ndarray, preset: Preset, cut_db: float) -> np.ndarray:
    """Values of the carriers, complex (OFDM symbols, U), mean power 1 → the same, with lower peaks and the same mean power."""
    length = OVERSAMPLING * preset.fft_len
    scale = length / math.sqrt(len(preset.carriers))
    peak = 10 ** (cut_db / 20)
    power = np.sum(np.abs(values) ** 2)
    lowered = values
    for _ in range(PASSES):
        spectrum = np.zeros((len(values), length), np.complex64)
        spectrum[:, preset.carriers] = lowered
        signal = np.fft.ifft(spectrum) * scale
        signal /= np.maximum(1, np.abs(signal) / peak)
        lowered = np.fft.fft(signal)[:, preset.carriers] / scale
    left = np.sum(np.abs(lowered) ** 2)
    return lowered * math.sqrt(power / left) if left > 0 else lowered
