# SPDX-License-Identifier: GPL-3.0-or-later
"""C/N₀ by chirp, and what follows from it."""

import math

import numpy as np
import pytest

from diffjscc.air.preset import BANDWIDTH, find_preset
from diffjscc.experiment.bursts import delay_spread
from diffjscc.experiment.chirps import carrier_to_noise_db, chirp, distortion_db, predicted_snr_db

LENGTH, RATE = 16384, 250e3


def received(snr_db, offset=0.0, echo=0.0, seed=0):
    """A chirp of power 1 and its silence in noise; the SNR in the occupied band."""
    random = np.random.default_rng(seed)
    samples = np.append(chirp(LENGTH), np.zeros(LENGTH // 2, np.complex64))
    samples = (samples + echo * np.roll(samples, 7)) * np.exp(2j * np.pi * offset * np.arange(len(samples)))
    variance = 10 ** (-snr_db / 10) / BANDWIDTH
    noise = random.standard_normal((len(samples), 2)) @ (1, 1j) * math.sqrt(variance / 2)
    return (samples + noise).astype(np.complex64)


@pytest.mark.parametrize("snr_db, error_db", [(20, 0.2), (0, 0.3), (-10, 2.0)])
@pytest.mark.parametrize("offset", [0.0, 0.02])
def test_carrier_to_noise_is_measured_whatever_the_offset(snr_db, error_db, offset):
    expected = snr_db + 10 * math.log10(BANDWIDTH * RATE)
    found = [carrier_to_noise_db(received(snr_db, offset, seed=seed), LENGTH, RATE) for seed in range(5)]
    # An offset of 2 % moves 2.5 % of the chirp out of the band.
    assert found == pytest.approx([expected] * 5, abs=error_db + (0.15 if offset else 0))


@pytest.mark.parametrize("snr_db, most_db", [(0, 0.2), (-10, 1.0)])
def test_carrier_to_noise_varies_little_from_chirp_to_chirp(snr_db, most_db):
    found = [carrier_to_noise_db(received(snr_db, seed=seed), LENGTH, RATE) for seed in range(60)]
    assert np.std(found) < most_db


def test_an_echo_adds_its_power():
    found = carrier_to_noise_db(received(10, echo=0.5j), LENGTH, RATE)
    assert found == pytest.approx(10 + 10 * math.log10(1.25 * BANDWIDTH * RATE), abs=0.3)


def test_what_cannot_be_measured_is_nan():
    noise = received(0)[-LENGTH // 2 :]
    assert math.isnan(carrier_to_noise_db(received(0)[:-1], LENGTH, RATE))
    assert math.isnan(carrier_to_noise_db(np.full(3 * LENGTH // 2, np.nan, np.complex64), LENGTH, RATE))
    assert math.isnan(carrier_to_noise_db(np.zeros(3 * LENGTH // 2, np.complex64), LENGTH, RATE))
    louder = np.concatenate((0.1 * noise, 0.1 * noise, noise))
    assert math.isnan(carrier_to_noise_db(louder, LENGTH, RATE))
    assert math.isnan(predicted_snr_db(math.nan, 0, 5, 20, RATE))


def test_the_snr_predicted_is_that_of_the_power_less_back_off_and_peaks():
    carrier = 20 + 10 * math.log10(BANDWIDTH * RATE)
    assert predicted_snr_db(carrier, 0, 0, math.inf, RATE) == pytest.approx(20)
    assert predicted_snr_db(carrier, 6, 5, math.inf, RATE) == pytest.approx(9)
    assert predicted_snr_db(carrier, 0, 0, 20, RATE) == pytest.approx(20 - 10 * math.log10(2))


def test_deeper_cuts_distort_more():
    found = [distortion_db("ofdm256", "auto", snr_db) for snr_db in (1.0, 7.0, 13.0)]
    assert found == sorted(found) and 12 < found[0] < 17 and found[2] > 20
    assert 24 < distortion_db("ofdm256", 6.0, 1.0) < 29 < distortion_db("ofdm256", 9.0, 1.0)


@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256"])
def test_the_delay_spread_of_two_taps_is_found(preset):
    fft_len = find_preset(preset).fft_len
    frequencies = (np.arange(fft_len) - fft_len // 2) / fft_len
    for delay, share in ((8, 0.5), (4, 0.2), (8, 0.0)):
        channel = math.sqrt(1 - share) + math.sqrt(share) * np.exp(-2j * np.pi * frequencies * delay)
        assert delay_spread(channel.astype(np.complex64), preset) == pytest.approx(delay * math.sqrt(share * (1 - share)), abs=0.3)
    assert math.isnan(delay_spread(None, preset)) and math.isnan(delay_spread(np.zeros(fft_len), preset))
