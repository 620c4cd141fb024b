# SPDX-License-Identifier: GPL-3.0-or-later
"""PSNR and MS-SSIM against numbers and against torchmetrics."""

import math

import pytest
import torch
from conftest import photograph

from diffjscc.evaluate.learned import import_torchmetrics
from diffjscc.metrics import ms_ssim, psnr

import_torchmetrics()
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure  # noqa: E402


def noisy(image, deviation):
    return (image + deviation * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def test_psnr_of_an_error_of_a_tenth_is_20_db():
    image = torch.full((3, 8, 8), 0.5)
    assert psnr(image + 0.1, image) == pytest.approx(20, abs=1e-5)
    assert psnr(image, image) == math.inf


@pytest.mark.parametrize("size", [(176, 176), (177, 250)])
@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.2])
def test_ms_ssim_is_torchmetrics(size, deviation):
    image = photograph(*size)
    received = noisy(image, deviation)
    expected = multiscale_structural_similarity_index_measure(received[None], image[None], data_range=1.0).item()
    assert ms_ssim(received, image) == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_of_a_negative_is_zero():
    assert ms_ssim(1 - photograph(176, 176), photograph(176, 176)) == 0


@pytest.mark.parametrize("size", [(161, 300), (300, 175), (32, 32)])
def test_images_too_small_for_ms_ssim_have_none(size):
    image = photograph(*size)
    assert math.isnan(ms_ssim(image, image))
