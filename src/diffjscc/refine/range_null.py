# SPDX-License-Identifier: GPL-3.0-or-later
"""Range-null-space guidance: what was received keeps its place, and the diffusion only adds what the channel did not carry."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RangeNull:
    """DDNM (Wang et al., ICLR 2023) with average pooling, as Yilmaz et al. (2023) use it for transmission.

    With A the mean of factor × factor pixels and A⁺ the repetition of each value, A·A⁺ = 1. An image x has a part in the range of
    A⁺, A⁺A·x, and the rest, (1 − A⁺A)·x, which A maps to zero. At each step the clean image x₀ that the network predicts gets the
    first part of the initial reconstruction x̂: x₀ ← A⁺A·x̂ + (1 − A⁺A)·x₀.

    factor  side of the squares, pixels
    """

    factor: int = 2

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(f"factor {self.factor} of range-null guidance: must be at least 1")

    def pool(self, images: Tensor) -> Tensor:
        """A: (N, 3, H, W), sides multiples of the factor → (N, 3, H/factor, W/factor)."""
        return F.avg_pool2d(images, self.factor)

    def spread(self, images: Tensor) -> Tensor:
        """A⁺: (N, 3, h, w) → (N, 3, factor·h, factor·w)."""
        return images.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def correct(self, predicted: Tensor, initial: Tensor) -> Tensor:
        """x₀ with the range part of x̂; all (N, 3, H, W), sides multiples of the factor."""
        return predicted + self.spread(self.pool(initial - predicted))
