# SPDX-License-Identifier: GPL-3.0-or-later
"""Echoes in training: Sionna's delay lines, the receiver's channel estimate, and what is said where Sionna is missing."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import j0
from train.test_channels import meet, sent

from diffjscc.air.preset import PRESETS
from diffjscc.codec.latent import ChannelState
from diffjscc.errors import MissingExtra
from diffjscc.train.channels import ChannelRecipe, pass_channel
from diffjscc.train.draws import Draws, generator
from diffjscc.train.multipath import INSTALL, LEAD, ChannelEstimator, find_multipath

PRESET = PRESETS["ofdm256"]

try:
    import sionna
except ImportError:
    sionna = None


def without_sionna(code):
    """Runs Python code in a process where Sionna cannot be imported."""
    code = f"import sys; sys.modules['sionna'] = None\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_missing_sionna_is_one_line_with_the_commands_that_install_it(images, tmp_path):
    command = ["train", "codec-lite", "channel.tdl=B", "--data", str(images), "--out", str(tmp_path)]
    done = without_sionna(f"from diffjscc.cli import main; sys.exit(main({command}))")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"diffjscc: channel.tdl needs Sionna, and sionna cannot be imported: {INSTALL}"
    assert "Traceback" not in done.stderr and not (tmp_path / "checkpoint.pt").exists()


if sionna is None:

    def test_without_sionna_the_library_says_so_too():
        with pytest.raises(MissingExtra, match="pip install --no-deps sionna-no-rt"):
            find_multipath("B", 3e-7, 10.0, 1e6, 6144)

else:
    #: TR 38.901, table 7.7.2-2: normalised delays and powers, dB, of TDL-B.
    TDL_B = {
        0.0: 0, 0.1072: -2.2, 0.2155: -4, 0.2095: -3.2, 0.2870: -9.8, 0.2986: -1.2, 0.3752: -3.4, 0.5055: -5.2,
        0.3681: -7.6, 0.3697: -3, 0.5700: -8.9, 0.5283: -9, 1.1021: -4.8, 1.2756: -5.7, 1.5474: -7.5, 1.7842: -1.9,
        2.0169: -7.6, 2.8294: -12.2, 3.0219: -9.8, 3.6187: -11.4, 4.1067: -14.9, 4.2790: -9.2, 4.7834: -11.3,
    }  # fmt: skip

    def test_the_power_delay_profile_is_that_of_the_specification():
        """Seen on the carriers: the mean of h(k) h*(k+d) is the transform of the profile at d carriers' distance."""
        multipath = find_multipath("B", 1e-6, 0.0, 1e6, 192)
        channel = multipath.draw(4000, generator(0))[:, 0]
        assert channel.abs().square().mean().item() == pytest.approx(1, abs=0.02)
        delays, powers = np.array(list(TDL_B)) * 1e-6, 10 ** (np.array(list(TDL_B.values())) / 10)
        # Only neighbours within one half of the band, where there is no gap at zero.
        for distance in (1, 5, 20, 60):
            seen = (channel[:, :104][:, distance:] * channel[:, : 104 - distance].conj()).mean().item()
            turns = distance * 1e6 / 256 * (delays + LEAD / 1e6)
            assert abs(seen - np.sum(powers * np.exp(-2j * np.pi * turns)) / powers.sum()) < 0.04

    def test_the_channel_moves_as_jakes_says():
        """The autocorrelation in time is J0(2π f_d τ), of the true Doppler shift."""
        multipath = find_multipath("B", 3e-7, 60.0, 1e6, 6144)
        channel = multipath.draw(1500, generator(1))[..., 50]
        for symbols in (1, 5, 15, 30):
            seen = (channel[:, symbols:] * channel[:, : channel.shape[1] - symbols].conj()).mean().item()
            assert abs(seen - j0(2 * math.pi * 60.0 * symbols * 272e-6)) < 0.05

    def test_a_channel_depends_on_its_generator_alone_and_leaves_others_alone():
        state = torch.get_rng_state()
        multipath = find_multipath("C", 3e-7, 10.0, 1e6, 600)
        first = multipath(3, torch.tensor(0.1), generator(5))
        assert torch.equal(torch.get_rng_state(), state)
        for one, other in zip(first, multipath(3, torch.tensor(0.1), generator(5))):
            assert torch.equal(one, other)
        assert not torch.equal(first[0], multipath(3, torch.tensor(0.1), generator(6))[0])

    @pytest.mark.parametrize("snr_db", [1.0, 13.0])
    @pytest.mark.parametrize("burst_symbols", [600, 6144])
    def test_the_estimates_error_is_told_to_the_decoder(snr_db, burst_symbols):
        recipe = ChannelRecipe(tdl="B", bursts=2, burst_symbols=burst_symbols)
        before, after, told, _, measured = meet(recipe, count=60, snr_db=snr_db, channels=8)
        error = (after - before).abs().square()
        assert (error / told).mean().item() == pytest.approx(1, abs=0.05)
        # Noise is unequal: in a notch it is many times that elsewhere.
        assert (told.amax(1) / told.amin(1)).median() > 10
        # The estimate is not the truth: with the channel known, the error would be smaller.
        assert measured.mean().item() == pytest.approx(snr_db, abs=1.5)

    def test_symbols_keep_their_phase_and_amplitude():
        before, after, told, _, _ = meet(ChannelRecipe(tdl="A"), count=40, snr_db=13.0)
        weights = 1 / told
        gain = (after * before.conj() * weights).sum() / (before.abs().square() * weights).sum()
        assert abs(gain.item() - 1) < 0.02

    def test_gradients_pass_echoes_and_lost_bursts_and_cut_peaks_together():
        latent, table = sent(2)
        latent.requires_grad_(True)
        recipe = ChannelRecipe(tdl="D", bursts=4, burst_symbols=512, burst_loss=0.3, clip_db=4.0, faded=0.5)
        received, reliability, _ = pass_channel(
            latent, table, ChannelState.awgn(torch.tensor([1.0, 9.0])), recipe, Draws(0, range(2))
        )
        (received * reliability).square().sum().backward()
        assert torch.isfinite(latent.grad).all() and latent.grad[:, :8].any()

    @pytest.mark.parametrize(
        "values, message",
        [
            ({"delay_spread_ns": 2000}, "TDL-B's last echo comes 9.57 µs after the first, the cyclic prefix bears 9 µs"),
            ({"doppler_hz": 100}, r"channel.doppler_hz = 100: must be at most 78.125 Hz, 2% of the distance"),
            ({"sample_rate": 1e7}, "TDL-B's last echo comes 1.44 µs after the first, the cyclic prefix bears 0.9 µs"),
        ],
    )
    def test_echoes_and_shifts_that_are_not_modelled_are_refused(values, message):
        with pytest.raises(ValueError, match=message):
            ChannelRecipe(tdl="B", **values).multipath()


def receivers_estimate(channel, symbols, variance, seed):
    """The estimator's answer for one channel, (symbols, carriers), in ``variance``."""
    estimator = ChannelEstimator(PRESET, symbols)
    estimate, noise_var = estimator(channel[None], torch.tensor(variance), generator(seed))
    return estimate[0], noise_var.item()


def test_the_estimate_finds_a_channel_of_a_few_echoes_and_its_noise():
    frequencies = torch.tensor(PRESET.carriers / PRESET.fft_len)
    echoes = sum(a * torch.exp(-2j * math.pi * frequencies * d) for a, d in ((0.8, 4.0), (0.5j, 6.3), (-0.3, 9.7)))
    channel = echoes.to(torch.complex64).expand(20, -1)
    for seed in range(5):
        estimate, noise_var = receivers_estimate(channel, 20, 0.05, seed)
        assert noise_var == pytest.approx(0.05, rel=0.15)
        # 17 parameters over 1088 observations, and a little for delays between samples.
        assert (estimate - channel).abs().square().mean().item() < 0.05 * 3 * 17 / 1088


def test_a_channel_that_turns_is_followed_and_one_that_stands_still_is_not():
    symbols = 36
    still = torch.ones(symbols, len(PRESET.carriers), dtype=torch.complex64)
    turns = torch.exp(1j * torch.linspace(0, 0.8 * math.pi, symbols))[:, None] * still
    for channel, worst in ((still, 2e-3), (turns, 8e-3)):
        estimate, noise_var = receivers_estimate(channel, symbols, 0.1, 0)
        assert (estimate - channel).abs().square().mean().item() < worst
        assert noise_var == pytest.approx(0.1, rel=0.15)


def test_training_meets_what_the_receiver_reports():
    """The same echoes and noise: through the air interface's own receiver, and through the training's estimate."""
    from blocks.test_air_interface import bursts, noisy, receive

    samples, _ = bursts(6, length=3000)
    taps = np.zeros(9, np.complex64)
    taps[[0, 3, 8]] = [0.8, 0.5j, -0.33]
    received, _, _ = receive(noisy(np.convolve(samples, taps)[: len(samples)], 10.0))
    seen = np.mean([noise_var for _, _, noise_var, _ in received], axis=0)

    estimator = ChannelEstimator(PRESET, PRESET.header_symbols + PRESET.payload_symbols(3000))
    response = np.exp(-2j * np.pi * np.outer(PRESET.carriers, np.arange(9) + LEAD) / PRESET.fft_len) @ taps
    channel = torch.from_numpy(response.astype(np.complex64)).expand(6, estimator.symbols, -1)
    estimate, noise_var = estimator(channel, torch.tensor(0.1), generator(0))
    told = (noise_var[:, None] / estimator.payload(estimate).abs().square()).mean(0)[:3000].numpy()
    assert np.median(told / seen) == pytest.approx(1, abs=0.08)
    assert np.corrcoef(np.log(told), np.log(seen))[0, 1] > 0.95
