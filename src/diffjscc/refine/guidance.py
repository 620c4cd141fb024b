# SPDX-License-Identifier: GPL-3.0-or-later
"""Latent guidance: a pull towards the initial reconstruction at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentGuidance:
    """Gradient steps on the mean squared error between the predicted latent and that of the initial reconstruction.

    scale   size of a step: the higher, the closer to the initial reconstruction
    start   guidance acts at timesteps below this
    stop    … and above this
    repeat  gradient steps at each timestep

    What the authors' code does, after GDP (Fei et al., CVPR 2023): the predicted latent moves by each gradient step, the
    sample by half of it.
    """

    scale: float
    start: int = 1001
    stop: int = -1
    repeat: int = 5

    def __post_init__(self):
        if self.repeat < 1 or self.scale < 0:
            raise ValueError(f"guidance scale {self.scale}, repeat {self.repeat}: scale must be at least 0, repeat at least 1")

    def shift(self, predicted: Tensor, wanted: Tensor, timestep: int) -> Tensor:
        """What to add to the next sample; predicted, wanted (N, C, h, w), scaled latents."""
        # The authors count timesteps from 1 here.
        if not self.stop < timestep + 1 < self.start:
            return torch.zeros_like(predicted)
        pull = self.scale / predicted[0].numel()
        moved = predicted
        for _ in range(self.repeat):
            moved = moved + pull * (wanted - moved)
        return 0.5 * (moved - predicted)
