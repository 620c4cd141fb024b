# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled refiner on photographs that it has never seen."""

import pytest
import torch
from refine.tiny import refine
from skimage import data

from diffjscc.channel import transmit
from diffjscc.evaluate.realism import SlicedWasserstein, flat_deviation
from diffjscc.hub import find_model, load_refiner
from diffjscc.images import to_tensor
from diffjscc.metrics import psnr


@pytest.fixture(scope="module")
def mini():
    return load_refiner("mini", dtype=torch.float32)


@pytest.fixture(scope="module")
def images(lite, mini):
    """[(original, initial, refined), …] at R = 1/128 and 1 dB."""
    triples = []
    for seed, name in enumerate(("astronaut", "coffee", "rocket")):
        original = to_tensor(getattr(data, name)())[:, :384, :512]
        symbols = lite.encode(original, 1.0, "1/128")
        initial = lite.decode(transmit(symbols, 1.0, seed=seed), symbols.header)
        triples.append((original, initial, refine(mini, initial, 1.0, generator=torch.Generator().manual_seed(seed))))
    return triples


def test_it_fits_24_megabytes_and_has_a_card():
    entry = find_model("mini", "refiner")
    assert entry.size <= 24e6
    assert (entry.path / "README.md").is_file()


def test_detail_becomes_more_like_the_originals(images):
    before, after = SlicedWasserstein(), SlicedWasserstein()
    for original, initial, refined in images:
        before.add(initial, original)
        after.add(refined, original)
    for blurred, painted in zip(before.distances(), after.distances()):
        assert painted < 0.75 * blurred


def test_it_costs_at_most_a_decibel_and_a_half(images):
    for original, initial, refined in images:
        assert psnr(refined, original) > psnr(initial, original) - 1.5


def test_flat_regions_stay_flat_and_colours_stay(images):
    for _, initial, refined in images:
        assert flat_deviation(refined, initial)[0] < flat_deviation(initial, initial)[0] + 3
        torch.testing.assert_close(refined.mean((1, 2)), initial.mean((1, 2)), atol=0.02, rtol=0)


def test_it_samples(images, mini):
    _, initial, refined = images[0]
    other = refine(mini, initial, 1.0, generator=torch.Generator().manual_seed(99))
    assert 1e-4 < (other - refined).abs().mean() < 0.05
