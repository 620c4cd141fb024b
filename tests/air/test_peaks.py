# SPDX-License-Identifier: GPL-3.0-or-later
"""Peaks that are lowered: how low they get, what that costs, and that nothing leaves the band."""

import math

import numpy as np
import pytest
from air.signals import gaussian

from diffjscc.air.modulator import Modulator
from diffjscc.air.peaks import AUTO, cut_for, lower_peaks, remaining_peak_db
from diffjscc.air.preset import PREAMBLE_LEN, PRESETS
from diffjscc.air.vectors import WAVEFORMS


def oversampled(samples, factor=4):
    spectrum, wide = np.fft.fft(samples), np.zeros(len(samples) * factor, complex)
    half = len(samples) // 2
    wide[:half], wide[-half:] = spectrum[:half], spectrum[-half:]
    return np.fft.ifft(wide) * factor


def papr_db(samples):
    """What one oversampled sample in 10⁴ exceeds."""
    power = np.abs(oversampled(samples)) ** 2
    return 10 * math.log10(np.quantile(power, 1 - 1e-4) / power.mean())


def burst(preset, clip_db, snr_db, seed=0, length=8190):
    """A burst's samples without its preamble."""
    return Modulator(PRESETS[preset], clip_db)(gaussian(length, seed=seed), bytes(11), snr_db)[PREAMBLE_LEN:]


@pytest.mark.parametrize("preset", WAVEFORMS)
@pytest.mark.parametrize(("snr_db", "most"), [(-5.0, 5.2), (1.0, 5.2), (7.0, 5.9), (13.0, 6.7), (20.0, 7.9)])
def test_peaks_are_the_lower_the_lower_the_snr(preset, snr_db, most):
    samples = burst(preset, AUTO, snr_db)
    assert papr_db(samples) < most < papr_db(burst(preset, 9.0, snr_db))
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(np.mean(np.abs(burst(preset, 100.0, snr_db)) ** 2), rel=0.01)
    peak_db = Modulator(PRESETS[preset], AUTO).peak_db(snr_db)
    assert peak_db == remaining_peak_db(cut_for(snr_db))
    assert np.abs(samples).max() <= 10 ** (peak_db / 20) * (1 + 1e-6)
    # Nearly all of it is used.
    assert np.abs(samples).max() > 10 ** (peak_db / 20) * 0.9


@pytest.mark.parametrize("preset", WAVEFORMS)
@pytest.mark.parametrize("snr_db", [-5.0, 1.0, 7.0, 13.0])
def test_nothing_more_leaves_the_band(preset, snr_db):
    """The mask of docs/air-interface.md, section 7, which bursts meet whose peaks are not touched."""

    def density(clip_db):
        samples = np.concatenate([burst(preset, clip_db, snr_db, seed) for seed in range(6)])
        pieces = samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.blackman(512)
        spectrum, frequency = np.mean(np.abs(np.fft.fft(pieces)) ** 2, 0), np.abs(np.fft.fftfreq(512))
        inside = spectrum[(frequency > 0.02) & (frequency < 0.39)].mean()
        return [10 * math.log10(spectrum[frequency >= edge].max() / inside) for edge in (0.42, 0.44, 0.46)]

    mask = {"ofdm64": (-9, -14, -15), "ofdm256": (-16, -20, -21), "room": (-16, -20, -21)}[preset]
    for lowered, untouched, limit in zip(density(AUTO), density(100.0), mask):
        assert lowered < untouched + 0.3 and lowered < limit


def test_distortion_is_below_the_noise_that_is_encoded_for():
    """All carriers lose the same, so that the equaliser puts it right."""
    preset, values = PRESETS["ofdm256"], gaussian(300 * 208).reshape(300, 208)
    for snr_db in (-5.0, 1.0, 7.0, 13.0, 20.0):
        lowered = lower_peaks(values, preset, cut_for(snr_db))
        gain = np.vdot(values, lowered) / np.vdot(values, values)
        distortion = np.mean(np.abs(lowered - gain * values) ** 2) / abs(gain) ** 2
        assert -10 * math.log10(distortion) > max(13.0, snr_db + 7)
        by_carrier = np.mean(np.abs(lowered) ** 2, 0)
        assert by_carrier.std() < 0.12 * by_carrier.mean()


def test_silence_and_odd_values_are_left_as_they_are():
    preset = PRESETS["ofdm64"]
    assert not lower_peaks(np.zeros((3, 52), np.complex64), preset, 2.0).any()
    assert lower_peaks(np.zeros((0, 52), np.complex64), preset, 2.0).shape == (0, 52)
    alike = burst("ofdm256", AUTO, None)
    assert np.array_equal(alike, burst("ofdm256", 100.0, None))


@pytest.mark.parametrize("clip_db", [0.0, -1.0, math.nan, "Auto", "9", None])
def test_no_other_word_or_number_is_a_clip_level(clip_db):
    with pytest.raises(ValueError, match="must be above 0 dB, or 'auto'"):
        Modulator(PRESETS["ofdm64"], clip_db)
