# SPDX-License-Identifier: GPL-3.0-or-later
"""Distortion metrics between two images, float (3, H, W) in [0, 1]."""

from __future__ import annotations

import math

from torch import Tensor

#: MS-SSIM halves an image four times and then needs more than its 11-pixel window.
MS_SSIM_MIN_SIDE = 161


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio, dB; infinite for equal images."""
    error = (image.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    """Multi-scale structural similarity (Wang et al., 2003), at most 1; NaN for images under 161 pixels a side."""
    if min(image.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return multiscale_structural_similarity_index_measure(image[None].float(), reference[None].float(), data_range=1.0).item()
