# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels to train through: their statistics are right, the decoder is told the truth, and gradients pass."""

import numpy as np
import pytest
import torch
from conftest import photograph

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import PILOT_SPACING, PRESETS
from diffjscc.codec.latent import ChannelState, latent_to_symbols, normalise_power
from diffjscc.train.channels import ChannelRecipe, draw_gain, draw_link, pass_channel
from diffjscc.train.codec_path import CodecPath
from diffjscc.train.draws import Draws, generator
from diffjscc.train.peaks import cut_peaks


def sent(count, channels=8, side=16):
    """Latents of unit mean power, (count, 32, side, side), of which the first ``channels`` are sent."""
    random = torch.Generator().manual_seed(0)
    sent = torch.full((count,), channels)
    return normalise_power(torch.randn(count, 32, side, side, generator=random), sent), sent


def meet(recipe, count=40, snr_db=7.0, channels=8, side=16, seed=0):
    """What was sent, what was received, and the noise variance that the decoder was told, complex or float (count, K)."""
    latent, table = sent(count, channels, side)
    draws = Draws(seed, range(count))
    state = ChannelState.awgn(torch.full((count,), snr_db))
    state = ChannelState(state.snr_db, draw_gain(recipe, draws), state.tx_snr_db)
    received, reliability, measured = pass_channel(latent, table, state, recipe, draws)
    assert not received[:, channels:].any() and not reliability[:, channels:].any()
    told = 1 / latent_to_symbols(reliability[:, :channels]).real - 1
    symbols = (latent_to_symbols(values[:, :channels]) for values in (latent, received))
    return (*symbols, told, state, measured)


#: Channels of every kind, some together.
CHANNELS = {
    "noise": {},
    "rayleigh": {"fading": "rayleigh"},
    "block": {"fading": "block", "bursts": 4, "burst_symbols": 128},
    "faded": {"faded": 1.0},
    "erased": {"erased": 1.0},
    "bursts lost": {"bursts": 10, "burst_symbols": 64, "burst_loss": 0.1},
    "peaks cut": {"clip_db": 2.0},
    "peaks cut four times": {"clip_db": 3.0, "clip_passes": 4},
    "all": {"clip_db": 4.0, "fading": "block", "bursts": 4, "burst_loss": 0.2, "faded": 0.3, "erased": 0.3},
}


@pytest.mark.parametrize("values", CHANNELS.values(), ids=CHANNELS)
def test_the_noise_variance_that_the_decoder_is_told_is_the_true_one(values):
    before, after, told, _, _ = meet(ChannelRecipe(**values))
    there = torch.isfinite(told)
    error = (after - before).abs().square()
    # Weighted by what is told, so that the few in a deep fade do not outweigh all others.
    assert (error[there] / told[there]).mean().item() == pytest.approx(1, abs=0.03)
    assert not after[~there].any()


def test_noise_is_that_of_a_complex_symbol_and_circular():
    before, after, told, state, measured = meet(ChannelRecipe())
    noise = after - before
    assert noise.abs().square().mean().item() == pytest.approx(10**-0.7, rel=0.02)
    assert noise.real.square().mean().item() == pytest.approx(10**-0.7 / 2, rel=0.03)
    assert noise.square().mean().abs().item() < 0.005
    assert told.unique().tolist() == pytest.approx([10**-0.7]) and torch.equal(measured, state.snr_db)


def test_rayleigh_fading_is_one_gain_an_image_that_both_ends_know():
    recipe = ChannelRecipe(fading="rayleigh")
    _, _, told, state, measured = meet(recipe, count=20)
    power = state.fading.abs().square()
    torch.testing.assert_close(told, (10**-0.7 / power)[:, None].expand_as(told), rtol=1e-4, atol=1e-4)
    gains = draw_gain(recipe, Draws(1, range(4000)))
    assert gains.abs().square().mean().item() == pytest.approx(1, abs=0.05) and gains.mean().abs() < 0.04
    # P(|h|² < 0.1) of an exponential distribution.
    assert (gains.abs().square() < 0.1).float().mean().item() == pytest.approx(1 - np.exp(-0.1), abs=0.015)
    assert torch.equal(measured, state.snr_db)


def test_block_fading_is_one_gain_a_burst_that_the_receiver_measures():
    _, _, told, _, measured = meet(ChannelRecipe(fading="block", bursts=4, burst_symbols=256), count=60)
    assert {len(row.unique()) for row in told} == {4}
    shares = torch.stack([row.unique(return_counts=True)[1].float() / len(row) for row in told])
    assert shares.mean().item() == pytest.approx(0.25) and shares.std() < 0.05
    torch.testing.assert_close(measured, 10 * (1 / told).mean(1).log10())


def test_some_images_fade_symbol_by_symbol_or_lose_symbols_and_the_rest_meet_even_noise():
    before, after, told, _, _ = meet(ChannelRecipe(faded=0.25, erased=0.25), count=400, side=6)
    even = (told - 10**-0.7).abs().amax(1) < 1e-4
    erased = torch.isinf(told).any(1)
    assert even.float().mean() == pytest.approx(0.5, abs=0.08)
    assert erased.float().mean() == pytest.approx(0.25, abs=0.07)
    assert torch.isinf(told[erased]).float().mean() == pytest.approx(0.15, abs=0.04)
    faded = told[~even & ~erased]
    # σ²/|h|² with |h|² exponential, whose median is log 2.
    assert faded.median().item() == pytest.approx(10**-0.7 / np.log(2), rel=0.1)


def test_both_real_values_of_a_symbol_share_its_fate():
    latent, table = sent(8, channels=16)
    state = ChannelState.awgn(torch.full((8,), 7.0))
    for values in ({"faded": 1.0}, {"erased": 1.0}, {"burst_loss": 0.5, "bursts": 4}):
        _, reliability, _ = pass_channel(latent, table, state, ChannelRecipe(**values), Draws(0, range(8)))
        assert torch.equal(reliability[:, :8], reliability[:, 8:16])


def test_lost_bursts_take_scattered_symbols_and_as_many_as_they_should():
    before, after, told, _, _ = meet(ChannelRecipe(bursts=10, burst_symbols=103, burst_loss=0.1), count=300)
    lost = torch.isinf(told)
    assert lost.float().mean().item() == pytest.approx(0.1, abs=0.015)
    # Nearly every image loses whole tenths.
    tenths = lost.float().mean(1) * 10
    assert (tenths - tenths.round()).abs().mean() < 0.1
    hit = lost[(tenths.round() == 1)]
    # Of neighbouring symbols both are lost as often as if they had nothing to do with each other.
    assert (hit[:, 1:] & hit[:, :-1]).float().mean().item() == pytest.approx(0.01, abs=0.004)


def test_a_crop_with_more_symbols_than_its_bursts_hold_gets_more_bursts():
    link = draw_link(1000, torch.tensor(7.0), torch.ones(()), ChannelRecipe(fading="block", burst_symbols=100), generator(0))
    assert len(link.told.unique()) == 10


@pytest.mark.parametrize("clip_db", [2.0, 4.0, 7.0])
def test_cut_peaks_are_distorted_as_numpy_says(clip_db):
    """4× oversampled OFDM of 208 carriers, cut and filtered: gain and signal to distortion."""
    symbols_of_ofdm = 4000
    random = np.random.default_rng(0)
    carriers = np.zeros((symbols_of_ofdm, 832), complex)
    data = (random.normal(size=(symbols_of_ofdm, 208)) + 1j * random.normal(size=(symbols_of_ofdm, 208))) / np.sqrt(2)
    carriers[:, :104], carriers[:, -104:] = data[:, :104], data[:, 104:]
    signal = np.fft.ifft(carriers)
    peak = 10 ** (clip_db / 20) * np.sqrt(np.mean(np.abs(signal) ** 2))
    cut = np.fft.fft(signal * np.minimum(1, peak / np.maximum(np.abs(signal), 1e-12)))
    cut = np.concatenate((cut[:, :104], cut[:, -104:]), axis=1)
    gain = np.vdot(data, cut) / np.vdot(data, data)
    expected = np.mean(np.abs(cut / gain - data) ** 2)

    symbols = torch.randn(symbols_of_ofdm * 208, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    after = cut_peaks(symbols, clip_db, 1, torch.Generator().manual_seed(2))
    ours = (after * symbols.conj()).sum() / symbols.abs().square().sum()
    assert ours.real.item() == pytest.approx(gain.real, rel=0.01) and abs(ours.imag.item()) < 0.003
    assert (after / ours - symbols).abs().square().mean().item() == pytest.approx(expected, rel=0.04)


def test_cut_peaks_are_distorted_about_as_by_the_projects_modulator():
    """The modulator cuts at the sample rate, where some of the highest peaks are missed, and what it adds stays in band."""
    preset, random = PRESETS["ofdm256"], np.random.default_rng(0)
    payload = ((random.normal(size=7680) + 1j * random.normal(size=7680)) / np.sqrt(2)).astype(np.complex64)
    plain, cut = (Modulator(preset, clip_db)(payload, b"\0" * 16) for clip_db in (np.inf, 4.0))
    grids = []
    for samples in (plain, cut):
        symbols = samples[len(preset.preamble) :].reshape(-1, preset.fft_len + preset.cp_len)[:, preset.cp_len :]
        grid = np.fft.fft(symbols)[:, preset.carriers] / preset.fft_len * np.sqrt(len(preset.carriers))
        rows = np.arange(preset.header_symbols, len(grid))
        free = np.ones(grid.shape, bool)
        free[rows[:, None], preset.pilot_positions[rows % PILOT_SPACING]] = False
        grids.append(grid[rows][free[rows]])
    gain = np.vdot(grids[0], grids[1]) / np.vdot(grids[0], grids[0])
    modulator_db = 10 * np.log10(np.mean(np.abs(grids[1] / gain - grids[0]) ** 2))
    _, _, told, _, _ = meet(ChannelRecipe(clip_db=4.0), snr_db=90.0, channels=32)
    assert 10 * told.mean().log10().item() == pytest.approx(modulator_db, abs=1.5)


def test_cutting_again_lowers_the_peaks():
    def peak_db(passes):
        symbols = torch.randn(208 * 50, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        carriers = cut_peaks(symbols, 3.0, passes, torch.Generator().manual_seed(0)) if passes else symbols
        # Seen through other phases it would be another signal: the same generator as in cut_peaks.
        random = torch.Generator().manual_seed(0)
        order = torch.randperm(len(symbols), generator=random)
        phases = torch.exp(2j * torch.pi * torch.rand(len(symbols), generator=random))
        signal = torch.fft.ifft((carriers[order] * phases).reshape(50, 208), n=832).abs()
        return 20 * (signal.amax() / signal.square().mean().sqrt()).log10().item()

    assert peak_db(0) > 9 > peak_db(1) > peak_db(4) + 1


def test_gradients_pass_every_channel(lite):
    images = torch.stack([photograph(64, 64), photograph(96, 96)[:, 32:, 32:]])
    channels, state = torch.tensor([4, 32]), ChannelState.awgn(torch.tensor([1.0, 13.0]))
    for values in CHANNELS.values():
        codec = lite.requires_grad_(True)
        codec.zero_grad()
        decoded = CodecPath(codec)(images, channels, state, ChannelRecipe(**values), Draws(0, range(2)))
        assert decoded.shape == images.shape
        decoded.square().mean().backward()
        gradients = [p.grad for p in codec.encoder.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients) and any(g.any() for g in gradients)
    lite.requires_grad_(False)
    lite.zero_grad()


def test_an_image_meets_the_same_channel_in_any_batch():
    latent, table = sent(4)
    state = ChannelState.awgn(torch.full((4,), 7.0))
    for values in CHANNELS.values():
        whole = pass_channel(latent, table, state, ChannelRecipe(**values), Draws(0, range(4)))
        part = pass_channel(
            latent[2:], table[2:], ChannelState.awgn(torch.full((2,), 7.0)), ChannelRecipe(**values), Draws(0, range(2, 4))
        )
        for all_of_it, its_end in zip(whole, part):
            torch.testing.assert_close(its_end, all_of_it[2:], rtol=0, atol=0)
