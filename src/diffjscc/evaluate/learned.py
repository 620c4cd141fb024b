# SPDX-License-Identifier: GPL-3.0-or-later
"""LPIPS and FID, which need weights of other networks: they are left out where those weights are not installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import one_line

if TYPE_CHECKING:
    from torchmetrics import Metric

logger = logging.getLogger(__name__)

#: Side of the patches that FID compares, half-overlapping, pixels (paper, section IV).
FID_PATCH = 256


def load_lpips() -> Metric | None:
    """LPIPS (AlexNet) of torchmetrics, for (N, 3, H, W) in [0, 1]; None where its weights are not available."""

    def load() -> Metric:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    return _if_available("LPIPS", load)


def load_fid(feature: int | nn.Module = 2048) -> Metric | None:
    """FID of torchmetrics on [0, 1] images; None where Inception's weights are not available.

    feature  width of the Inception layer, or another network that extracts features
    """

    def load() -> Metric:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=feature, normalize=True)

    return _if_available("FID", load)


def _if_available(name: str, load: Callable[[], Metric]) -> Metric | None:
    try:
        return load()
    # Missing packages and failed downloads: each library raises exceptions of its own.
    except Exception as error:
        logger.info("%s is left out: %s", name, one_line(error))
        return None


def patches(image: Tensor) -> Tensor:
    """Half-overlapping patches of an image (3, H, W) → (P, 3, 256, 256); empty for a smaller one."""
    starts = [range(0, side - FID_PATCH + 1, FID_PATCH // 2) for side in image.shape[-2:]]
    cut = [image[:, y : y + FID_PATCH, x : x + FID_PATCH] for y in starts[0] for x in starts[1]]
    return torch.stack(cut) if cut else image.new_zeros(0, 3, FID_PATCH, FID_PATCH)
