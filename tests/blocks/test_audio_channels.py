# SPDX-License-Identifier: GPL-3.0-or-later
"""Images by sound over short-wave channels and from a room: tests/bench/audio.py, with fewer bursts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph

from diffjscc.images import to_pixels, write_image

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from audio import CHANNELS, air_time, headers, images, room


@pytest.mark.parametrize(("channel", "snr_db", "least"), [("AWGN", 0.0, 1.0), ("moderate", 5.0, 0.92), ("disturbed", 10.0, 0.92)])
def test_headers_of_hf_are_read_on_short_wave(channel, snr_db, least):
    share, wrong = headers("hf", CHANNELS[channel], snr_db, 25)
    assert share >= least and wrong == 0


@pytest.mark.parametrize(("channel", "most"), [("AWGN", 1.0), ("moderate", 3.0)])
def test_images_lose_little_against_the_ideal_channel(channel, most, tmp_path):
    paths = [tmp_path / "a.png"] * 6
    write_image(paths[0], to_pixels(photograph(128, 192)))
    came, ideal = images("hf", CHANNELS[channel], 5.0, paths, seed=1)
    there = [(got, best) for got, best in zip(came, ideal) if got is not None]
    assert len(there) >= 5
    # Of six fades one may be deep.
    assert np.median([best - got for got, best in there]) < most


def test_images_come_from_a_recorded_room(tmp_path):
    """44.1 kHz, 200 ppm, echoes of 3 and 20 ms, 5 dB."""
    path = tmp_path / "a.png"
    write_image(path, to_pixels(photograph(128, 192)))
    best = images("room", CHANNELS["AWGN"], 5.0, [path])[1]
    came = room([path] * 2)
    assert None not in came and np.mean(came) > best[0] - 2.5


def test_a_photograph_takes_less_than_four_seconds():
    assert air_time(768, 512) < 4 and air_time(768, 512, preset="room") < 4
