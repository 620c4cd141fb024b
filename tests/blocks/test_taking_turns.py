# SPDX-License-Identifier: GPL-3.0-or-later
"""Two transmitters on one frequency that take turns."""

import secrets

import numpy as np
import pytest
from blocks.test_air_interface import TAIL, decode, noisy, transmit
from conftest import photograph

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
