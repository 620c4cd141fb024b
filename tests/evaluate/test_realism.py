# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of realism: what they must tell apart."""

import math

import numpy as np
import pytest
import torch
from conftest import photograph
from skimage import data

from diffjscc.evaluate.niqe import fit, niqe
from diffjscc.evaluate.realism import SlicedWasserstein, flat_deviation, laplacian_pyramid
from diffjscc.evaluate.refinement import Scorer
from diffjscc.images import to_pixels


def blurred(image, radius):
    taps = torch.exp(-0.5 * (torch.arange(-3 * radius, 3 * radius + 1) / radius) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = torch.nn.functional.pad(image[None], (3 * radius,) * 4, mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)[0]


def noisy(image, deviation=0.05):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + deviation * noise).clamp(0, 1)


def distances(image, original):
    measure = SlicedWasserstein()
    measure.add(image, original)
    return measure.distances()


def test_an_image_is_no_distance_from_itself_and_blur_and_noise_are():
    image = photograph(256, 320)
    assert distances(image, image) == (0, 0)
    slight, strong = distances(blurred(image, 1), image), distances(blurred(image, 4), image)
    assert 0 < slight[0] < strong[0] and 0 < slight[1] < strong[1]
    assert distances(noisy(image), image)[0] > 1


def test_the_distance_is_the_mean_shift_of_sorted_projections():
    """Detail of twice the contrast: projections double, so that the distance is their mean magnitude."""
    image = noisy(torch.full((3, 128, 128), 0.5), 0.05)
    doubled = 0.5 + 2 * (image - 0.5)
    octave = laplacian_pyramid(image * 255, 1)[0]
    # Unit directions keep a white octave's deviation; a normal variable's mean magnitude is 0.8 of it.
    assert distances(doubled, image)[0] == pytest.approx(0.8 * octave.std().item(), rel=0.1)


def test_the_pyramid_loses_nothing_but_what_is_coarser():
    image = photograph(64, 96)
    fine, coarse = laplacian_pyramid(image, 2)
    assert fine.shape == (3, 64, 96) and coarse.shape == (3, 32, 48)
    assert laplacian_pyramid(torch.full((3, 64, 64), 0.3), 1)[0].abs().max() < 1e-6


def test_grain_on_a_flat_sky_shows_in_the_flat_deviation_alone():
    image = photograph(256, 256)
    image[:, :64] = 0.6
    given, wanted = flat_deviation(noisy(image), image)
    assert wanted < 0.5 and given > 5
    assert flat_deviation(image, image)[0] == wanted


def test_niqe_prefers_photographs_to_what_spoils_them():
    image = photograph(384, 480)
    clean = niqe(to_pixels(image))
    assert clean < niqe(to_pixels(blurred(image, 3)))
    assert clean < niqe(to_pixels(noisy(image, 0.2)))
    assert math.isnan(niqe(np.zeros((64, 64, 3), np.uint8)))


def test_the_pristine_model_can_be_fitted_anew(tmp_path, monkeypatch):
    from diffjscc.evaluate import niqe as module

    photographs = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    fit(photographs, tmp_path / "pristine.safetensors")
    monkeypatch.setattr(module, "PRISTINE", tmp_path / "pristine.safetensors")
    module._pristine.cache_clear()
    fitted = niqe(photographs[0])
    module._pristine.cache_clear()
    assert 0 < fitted < 20


def test_shapes_of_known_distributions_are_found():
    from diffjscc.evaluate.niqe import _fit_asymmetric

    random = np.random.default_rng(0)
    normal, laplace = random.normal(size=(1, 200_000)), random.laplace(size=(1, 200_000))
    assert _fit_asymmetric(normal)[0][0] == pytest.approx(2, abs=0.1)
    assert _fit_asymmetric(laplace)[0][0] == pytest.approx(1, abs=0.05)


def test_learned_measures_are_left_out_where_their_weights_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    scorer = Scorer("refined", None)
    scorer.add(photograph(256, 256), photograph(256, 256))
    score = scorer.score()
    assert math.isnan(score.lpips) and math.isnan(score.fid)
    assert score.swd == (0, 0) or max(score.swd) < 0.5
    assert score.flat == pytest.approx(1, abs=0.05)
