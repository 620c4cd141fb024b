# SPDX-License-Identifier: GPL-3.0-or-later
"""Two transmitters on one frequency: they take turns, or one sends over the other."""

import secrets

import numpy as np
import pytest
from air.signals import gaussian
from blocks.test_air_interface import TAIL, decode, noisy, receive, transmit
from conftest import photograph

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import find_preset
from diffjscc.images import to_tensor
from diffjscc.metrics import psnr


def test_images_of_two_transmitters_in_turns_are_both_whole(lite, monkeypatch):
    """Burst by burst; each image is as good as alone."""
    # Drawn at random, two of 32 may be the same.
    sessions = iter((3, 17))
    monkeypatch.setattr(secrets, "randbelow", lambda period: next(sessions))
    images = [lite.encode(photograph(256, 384), 7.0, "1/32", image_id=index) for index in range(2)]
    cuts = []
    for image in images:
        samples, tags, _ = transmit([image], burst_symbols=800)
        begins = [offset for offset, key, _ in tags if key == "packet_len"]
        assert len(begins) == 4
        cuts.append(np.split(samples, begins[1:]))
    alone = decode(noisy(np.concatenate([*cuts[0], TAIL]), 7.0))[0][0][0]
    received, counters = decode(noisy(np.concatenate([piece for turn in zip(*cuts) for piece in turn] + [TAIL]), 7.0))
    assert counters["decoded"] == 2 and counters["truncated"] == 0 and counters["late"] == 0
    assert sorted(metadata["image_id"] for _, metadata in received) == [0, 1]
    expected = psnr(to_tensor(alone), photograph(256, 384))
    for pixels, _ in received:
        assert psnr(to_tensor(pixels), photograph(256, 384)) == pytest.approx(expected, abs=0.3)


def overlapped(begin, level_db, sessions=(1, 2), length=1500):
    """Two bursts of one symbol length: the second begins ``begin`` samples after the first, ``level_db`` above it."""
    modulator = Modulator(find_preset("ofdm256"))
    first, second = (modulator(gaussian(length, seed=session), bytes([session << 3]) + bytes(10)) for session in sessions)
    samples = np.zeros(200 + begin + 2 * len(first) + len(TAIL), np.complex64)
    samples[200 : 200 + len(first)] += first
    samples[200 + begin : 200 + begin + len(second)] += 10 ** (level_db / 20) * second
    return noisy(samples, 20.0)


@pytest.mark.parametrize("begin", [300, 900, 2000])
def test_a_weaker_transmitter_does_not_end_a_stronger_ones_burst(begin):
    """Wherever it begins: in the header, or behind it."""
    received, _, _ = receive(overlapped(begin, -6.0))
    header, symbols, noise_var, _ = received[0]
    assert header[0] >> 3 == 1 and len(symbols) == 1500 and np.isfinite(noise_var).all()
    assert -10 * np.log10(np.mean(np.abs(symbols - gaussian(1500, seed=1)) ** 2)) > 4.5


@pytest.mark.parametrize(("level_db", "sessions"), [(6.0, (1, 2)), (-3.0, (1, 1))], ids=["stronger", "the same transmitter"])
def test_what_ends_a_burst(level_db, sessions):
    received, _, _ = receive(overlapped(2000, level_db, sessions))
    assert [header[0] >> 3 for header, _, _, _ in received] == list(sessions)
    assert not np.isfinite(received[0][2]).all() and np.isfinite(received[1][2]).all()
