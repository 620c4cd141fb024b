# SPDX-License-Identifier: GPL-3.0-or-later
"""Random numbers of a training step, which depend on the seed and on the crops' numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

#: Names of independent streams under one seed.
_CROP, _SHARED = 0, 1


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on these numbers (each at least 0) alone."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


class Draws:
    """One generator a crop, and one that all crops of a step share.

    A crop meets the same channel whichever process or part of a batch computes it: more GPUs, or gradient accumulation,
    change nothing but the rounding.

    seed     of the training
    numbers  of the crops, counted from the first step on
    step     whose crops they are
    """

    def __init__(self, seed: int, numbers: Sequence[int], step: int = 0):
        self.each = [generator(seed, _CROP, number) for number in numbers]
        self.shared = generator(seed, _SHARED, step)

    def __len__(self) -> int:
        return len(self.each)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """N(0, 1), or CN(0, 1) for a complex dtype: (N, *shape)."""
        return self._stack(lambda random: torch.randn(shape, dtype=dtype, generator=random))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """One number a crop, low to high: (N,)."""
        return self._stack(lambda random: torch.rand((), generator=random)) * (high - low) + low

    def integers(self, end: int) -> Tensor:
        """One of 0 … end − 1 a crop: int64 (N,)."""
        return self._stack(lambda random: torch.randint(end, (), generator=random))

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(random) for random in self.each])
