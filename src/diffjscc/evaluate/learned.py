# SPDX-License-Identifier: GPL-3.0-or-later
"""LPIPS and FID, which need networks' weights: measured where those are, left out where not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import one_line

logger = logging.getLogger(__name__)

#: Side of the patches that FID compares, half-overlapping, pixels (paper, section IV).
FID_PATCH = 256


def load_lpips() -> nn.Module | None:
    """LPIPS (AlexNet) of torchmetrics, for (N, 3, H, W) in [0, 1]; None where its weights are not at hand."""

    def load() -> nn.Module:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    return _at_hand("LPIPS", load)


def load_fid(feature: int | nn.Module = 2048) -> nn.Module | None:
    """FID of torchmetrics on [0, 1] images; None where Inception's weights are not at hand.

    feature  width of the Inception layer, or another network that extracts features
    """

    def load() -> nn.Module:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=feature, normalize=True)

    return _at_hand("FID", load)


def _at_hand(name: str, load: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        return load()
    # Packages that are missing, downloads that fail: each library has exceptions of its own.
    except Exception as error:
        logger.info("%s is left out: %s", name, one_line(error))
        return None


def patches(image: Tensor) -> Tensor:
    """Half-overlapping patches of an image (3, H, W) → (P, 3, 256, 256); empty for a smaller one."""
    starts = [range(0, side - FID_PATCH + 1, FID_PATCH // 2) for side in image.shape[-2:]]
    cut = [image[:, y : y + FID_PATCH, x : x + FID_PATCH] for y in starts[0] for x in starts[1]]
    return torch.stack(cut) if cut else image.new_zeros(0, 3, FID_PATCH, FID_PATCH)
