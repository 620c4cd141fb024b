# SPDX-License-Identifier: GPL-3.0-or-later
"""C/N₀ from a chirp and the silence behind it, after the over-the-air tests of RADE (https://github.com/drowe67/radae).

A chirp has a constant envelope, so that it leaves an amplifier at its peak power whatever the amplifier does to peaks. In the
occupied band its power and the noise's are C + N while it is sent, and N in the silence behind it. So

    C/N₀ = B ((C + N)/N − 1)

whatever carrier offset, phase, or echoes do to it. At the default length the standard
deviation of C/N₀ is 0.1 dB at an SNR of 0 dB, and 0.6 dB at −10 dB. From C/N₀ follows the SNR that an image should have:

    SNR = C/N₀ · (A/A_chirp)² / (PAPR · B)

with the peak amplitudes A and the ratio of an image's peak power to its mean (PAPR). What the transmitter's peak reduction does
within the band counts as noise, too: 1/SNR_effective = 1/SNR + 1/SDR.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..air.peaks import AUTO, cut_for, lower_peaks
from ..air.preset import BANDWIDTH, find_preset

#: Samples at both ends of a window that are left out: the place is not known better, and filters ring. A share of the window.
MARGIN = 1 / 8

#: OFDM symbols by which the distortion of a peak reduction is measured.
ROWS = 64


def chirp(length: int) -> np.ndarray:
    """complex64 (length,), amplitude 1: once up through the occupied band."""
    time = np.arange(length) - (length - 1) / 2
    return np.exp(1j * np.pi * BANDWIDTH / length * time**2).astype(np.complex64)


def carrier_to_noise_db(samples: np.ndarray, length: int, sample_rate: float) -> float:
    """C/N₀ in dB·Hz of complex samples that begin with a chirp of ``length`` and end with half as much silence.

    NaN where the window is not whole, or the chirp is not above the noise.
    """
    if len(samples) < length + length // 2 or not np.isfinite(samples).all():
        return math.nan
    skip = int(MARGIN * length / 2)
    with_chirp = _density(samples[:length], skip)
    noise = _density(samples[length : length + length // 2], skip)
    if noise <= 0:
        return math.inf if with_chirp > 0 else math.nan
    ratio = with_chirp / noise - 1
    return 10 * math.log10(ratio * BANDWIDTH * sample_rate) if ratio > 0 else math.nan


def _density(samples: np.ndarray, skip: int) -> float:
    """Mean power density in the occupied band, without ``skip`` samples at either end."""
    inner = samples[skip : len(samples) - skip].astype(np.complex128)
    power = np.abs(np.fft.fft(inner)) ** 2 / len(inner)
    return float(np.mean(power[np.abs(np.fft.fftfreq(len(inner))) <= BANDWIDTH / 2]))


def predicted_snr_db(carrier_to_noise: float, backoff_db: float, peak_db: float, distortion_db: float, sample_rate: float) -> float:
    """The SNR that an image should have at the receiver, dB; NaN where C/N₀ is not known.

    backoff_db     of the image's peak against the chirp's
    peak_db        of the image's peak against its mean
    distortion_db  SDR of the peak reduction
    """
    if math.isnan(carrier_to_noise):
        return math.nan
    snr_db = carrier_to_noise - backoff_db - peak_db - 10 * math.log10(BANDWIDTH * sample_rate)
    return -10 * math.log10(10 ** (-snr_db / 10) + 10 ** (-distortion_db / 10))


@lru_cache(maxsize=256)
def distortion_db(preset: str, clip_db: float | str, snr_db: float) -> float:
    """Signal over distortion of the peak reduction of Gaussian symbols, dB, measured on a few; inf where peaks stay."""
    if clip_db != AUTO:
        # The power that is cut off once, of a Gaussian signal. A part of it falls out of the band: the SDR is 1 dB better.
        excess = 10 ** (float(clip_db) / 10)
        distortion = math.exp(-excess) - math.sqrt(math.pi * excess) * math.erfc(math.sqrt(excess))
        return -10 * math.log10(max(distortion, 1e-12))
    parameters = find_preset(preset)
    random = np.random.default_rng(0)
    shape = ROWS, len(parameters.carriers)
    values = (random.standard_normal(shape) + 1j * random.standard_normal(shape)) / math.sqrt(2)
    lowered = lower_peaks(values, parameters, cut_for(snr_db))
    gain = np.vdot(values, lowered) / np.vdot(values, values)
    left = np.sum(np.abs(lowered - gain * values) ** 2) / np.sum(np.abs(gain * values) ** 2)
    return float(-10 * math.log10(left))
