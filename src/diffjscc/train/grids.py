# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of several sizes as one batch, for trackers to show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def stacked(images: Sequence[Tensor]) -> Tensor:
    """(N,3,H,W) of images (3,h,w), grey where one is smaller than the largest."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    return torch.stack([nn.functional.pad(x, (0, width - x.shape[2], 0, height - x.shape[1]), value=0.5) for x in images])
