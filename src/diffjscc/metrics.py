# SPDX-License-Identifier: GPL-3.0-or-later
"""Distortion metrics between two images, float (3, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Exponents of the five scales of MS-SSIM, finest first (Wang et al., 2003, section 3.2).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

#: Side and standard deviation of the Gaussian window of SSIM, pixels.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5

#: Constants that keep SSIM's quotients finite: (0.01 L)² and (0.03 L)² with the range L = 1.
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2

#: MS-SSIM halves an image four times; the coarsest scale must still hold a whole window.
MS_SSIM_MIN_SIDE = 16 * SSIM_WINDOW


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio, dB; infinite for equal images."""
    error = (image.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003), at most 1; NaN for images under 176 pixels a side.

        image ─► contrast · structure ─► ÷2 ─► contrast · structure ─► ÷2 ─► … ─► ÷2 ─► SSIM
                      ^0.0448                       ^0.2856                           ^0.1333

    The product of the five terms; negative terms count as zero. The values are those of torchmetrics: windows lie inside the
    image, except at the coarsest scale, where the image is continued by reflection.
    """
    if min(image.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    a, b = image[None].float(), reference[None].float()
    product = 1.0
    for weight in MS_SSIM_WEIGHTS[:-1]:
        _, contrast = _ssim_terms(a, b)
        product *= max(contrast.mean().item(), 0.0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    border = (SSIM_WINDOW // 2,) * 4
    luminance, contrast = _ssim_terms(F.pad(a, border, mode="reflect"), F.pad(b, border, mode="reflect"))
    return product * max((luminance * contrast).mean().item(), 0.0) ** MS_SSIM_WEIGHTS[-1]


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance term, and the product of its contrast and structure terms: (1, 3, H, W) → (1, 3, H − 10, W − 10) each."""
    # The five moments in one pass: means of a, b, a², b², a·b. Channels last are 19 times as fast here as a batch of planes.
    planes = torch.cat([a, b, a * a, b * b, a * b], dim=1).contiguous(memory_format=torch.channels_last)
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float32, device=a.device) - SSIM_WINDOW // 2
    window = torch.exp(-((offsets / SSIM_SIGMA) ** 2) / 2)
    window = (window / window.sum()).expand(planes.shape[1], 1, 1, SSIM_WINDOW)
    planes = F.conv2d(planes, window, groups=len(window))
    planes = F.conv2d(planes, window.transpose(2, 3), groups=len(window))
    mean_a, mean_b, square_a, square_b, product = planes.chunk(5, dim=1)
    variance_a, variance_b = (square_a - mean_a**2).clamp(min=0), (square_b - mean_b**2).clamp(min=0)
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    contrast = (2 * (product - mean_a * mean_b) + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return luminance, contrast
