# SPDX-License-Identifier: GPL-3.0-or-later
"""The critic of an adversarial training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Is this picture the photograph, or was it repainted? A logit a patch, at three scales.

        picture ‖ initial ─► stage ─► ÷2 ─► stage ─► ÷2 ─► stage ─► ÷2 ─► stage
           (6, H, W)                          │              │              │
                                         logits H/2     logits H/4     logits H/8

    It sees the initial reconstruction too, so that an invented detail that contradicts it is told from a true one
    (Isola et al., 2017). Every convolution is spectrally normalised (Miyato et al., 2018). Stages halve by averaging:
    strided convolutions would favour some pixels of a grid over others, and teach the generator a checkerboard.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        self.stages = nn.ModuleList()
        self.heads = nn.ModuleList()
        before = 6
        for index, width in enumerate(widths):
            self.stages.append(
                nn.Sequential(
                    spectral_norm(nn.Conv2d(before, width, 3, padding=1)),
                    nn.LeakyReLU(0.2),
                    spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                    nn.LeakyReLU(0.2),
                )
            )
            self.heads.append(spectral_norm(nn.Conv2d(width, 1, 3, padding=1)) if index else nn.Identity())
            before = width

    def forward(self, picture: Tensor, initial: Tensor) -> list[Tensor]:
        """picture, initial (N,3,H,W) in [0,1] → logits [(N,1,H/2,W/2), (N,1,H/4,W/4), (N,1,H/8,W/8)]."""
        features = torch.cat((picture, initial), 1) * 2 - 1
        logits = []
        for index, (stage, head) in enumerate(zip(self.stages, self.heads)):
            if index:
                features = F.avg_pool2d(features, 2)
            features = stage(features)
            if index:
                logits.append(head(features))
        return logits


def critic_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """What the critic is charged for, mean over scales: log(1 + exp(fake − real)), patch by patch.

    Relativistic pairing (Jolicoeur-Martineau, 2018; Huang et al., "R3GAN", 2024): photograph and repainted picture show
    the same scene, so that a patch's content cancels and only its realism is judged.
    """
    return sum(F.softplus(f.float() - r.float()).mean() for r, f in zip(real, fake)) / len(real)


def generator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """What the generator is charged for being told apart from the photographs, mean over scales."""
    return critic_loss(fake, real)
