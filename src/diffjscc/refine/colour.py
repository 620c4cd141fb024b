# SPDX-License-Identifier: GPL-3.0-or-later
"""Colour correction: gives a refined image the colours of its initial reconstruction.

Both are float (N, 3, H, W) in [0, 1]; the result may leave that range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Octaves, from the finest on, that a wavelet correction keeps from the refined image.
WAVELET_LEVELS = 5


def match_statistics(refined: Tensor, initial: Tensor) -> Tensor:
    """Each channel of ``refined`` with the mean and deviation of ``initial`` ("AdaIN"; Huang and Belongie, ICCV 2017)."""
    (mean, deviation), (wanted_mean, wanted_deviation) = _statistics(refined), _statistics(initial)
    return (refined - mean) / deviation * wanted_deviation + wanted_mean


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    # The authors add 1e-5 to the variance, against division by zero.
    variance, mean = torch.var_mean(images, dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def match_low_frequencies(refined: Tensor, initial: Tensor) -> Tensor:
    """The five finest octaves of ``refined`` and the rest of ``initial``, split by an à-trous wavelet with a binomial kernel."""
    return refined - _low_frequencies(refined) + _low_frequencies(initial)


def _low_frequencies(images: Tensor) -> Tensor:
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=images.dtype, device=images.device)
    kernel = torch.outer(taps, taps).expand(images.shape[1], 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        reach = 2**level
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        images = F.conv2d(padded, kernel, groups=images.shape[1], dilation=reach)
    return images


COLOUR_FIXES = {
    "none": lambda refined, initial: refined,
    "adain": match_statistics,
    "wavelet": match_low_frequencies,
}
