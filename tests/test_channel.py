# SPDX-License-Identifier: GPL-3.0-or-later
"""The channel's noise, to the decibel, and the receiver's estimate of it."""

import math

import numpy as np
import pytest
import torch

from diffjscc.channel import awgn, draw_gain, transmit
from diffjscc.snr import estimate_snr_db
from diffjscc.symbols import ImageHeader, Symbols

HEADER = ImageHeader(0, 768, 512, "lite", "1/16", 1.0)


def unit_symbols(seed=0, count=HEADER.symbol_count):
    values = np.random.default_rng(seed).normal(size=(count, 2)).view(np.complex128)[:, 0]
    return Symbols((values / np.sqrt(np.mean(np.abs(values) ** 2))).astype(np.complex64), HEADER)


@pytest.mark.parametrize("snr_db", [-5.0, 1.0, 13.0])
def test_noise_variance_is_per_complex_symbol_half_in_each_dimension(snr_db):
    symbols = unit_symbols()
    noise = transmit(symbols, snr_db, seed=3).values - symbols.values
    sigma2 = 10 ** (-snr_db / 10)
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(sigma2, rel=0.03)
    assert np.var(noise.real) == pytest.approx(sigma2 / 2, rel=0.04)
    assert np.var(noise.imag) == pytest.approx(sigma2 / 2, rel=0.04)


def test_the_channel_passes_gradients():
    sent = torch.randn(2, 8, dtype=torch.complex64, requires_grad=True)
    awgn(sent, torch.tensor([1.0, 7.0])).abs().sum().backward()
    assert sent.grad.abs().min() > 0


def test_a_faded_image_is_equalised_and_its_noise_variance_told():
    symbols = unit_symbols()
    gain = draw_gain("rayleigh", seed=4)
    reception = transmit(symbols, 7.0, gain, seed=4)
    noise = reception.values - symbols.values
    assert reception.fading == gain
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(10**-0.7 / abs(gain) ** 2, rel=0.03)
    assert reception.noise_var == pytest.approx(10**-0.7 / abs(gain) ** 2)


def test_rayleigh_gains_have_unit_mean_power_and_are_seeded():
    gains = np.array([draw_gain("rayleigh", seed) for seed in range(4000)])
    assert np.mean(np.abs(gains) ** 2) == pytest.approx(1, abs=0.06)
    assert draw_gain("rayleigh", 9) == gains[9]
    assert draw_gain("awgn", 9) == 1


def test_a_seed_repeats_the_noise():
    symbols = unit_symbols()
    assert np.array_equal(transmit(symbols, 1.0, seed=1).values, transmit(symbols, 1.0, seed=1).values)
    assert not np.array_equal(transmit(symbols, 1.0, seed=1).values, transmit(symbols, 1.0, seed=2).values)


def test_erasures_are_marked_and_do_not_change_the_rest():
    symbols = unit_symbols()
    whole, holed = transmit(symbols, 7.0, seed=1), transmit(symbols, 7.0, seed=1, erasures=0.1)
    lost = np.isinf(holed.noise_var)
    assert lost.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(whole.values, holed.values)
    assert np.array_equal(whole.noise_var[~lost], holed.noise_var[~lost])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="erasures = 2"):
        transmit(unit_symbols(), 1.0, erasures=2)
    with pytest.raises(ValueError, match="not an SNR"):
        transmit(unit_symbols(), math.nan)
    with pytest.raises(ValueError, match="gain = 0"):
        transmit(unit_symbols(), 1.0, gain=0)
    with pytest.raises(ValueError, match="'fog' is not one of awgn, rayleigh"):
        draw_gain("fog", 0)


@pytest.mark.parametrize("snr_db, allowed", [(-5.0, 0.4), (1.0, 0.4), (7.0, 0.5), (13.0, 1.0)])
def test_the_snr_is_estimated_from_3072_symbols_alone(snr_db, allowed):
    errors = [estimate_snr_db(transmit(unit_symbols(seed, 3072), snr_db, seed=seed).values) - snr_db for seed in range(40)]
    assert np.sqrt(np.mean(np.square(errors))) < allowed


def test_the_estimate_is_finite_for_silence_and_for_nothing():
    for values in (np.zeros(10, np.complex64), np.zeros(0, np.complex64), np.full(4, np.nan, np.complex64)):
        assert math.isfinite(estimate_snr_db(values))
