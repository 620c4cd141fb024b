# SPDX-License-Identifier: GPL-3.0-or-later
"""The critic of an adversarial training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .optimisers import short_memory, take_step

#: Steps over which a new critic's opinion grows to its weight.
GROWS_OVER = 200


class PatchCritic(nn.Module):
    """Is this texture photographed or painted? A logit a patch, at three scales.

        image ─► stage ─► ÷2 ─► stage ─► ÷2 ─► stage ─► ÷2 ─► stage
        (3,H,W)                     │              │              │
                               logits H/2     logits H/4     logits H/8

    Every convolution is spectrally normalised (Miyato et al., 2018). Stages halve by averaging: strided convolutions would
    favour some pixels of a lattice over others, and teach the generator one.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 128)):
        super().__init__()
        before = (3, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(before[index], width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
            )
            for index, width in enumerate(widths)
        )
        self.heads = nn.ModuleList(spectral_norm(nn.Conv2d(width, 1, 3, padding=1)) for width in widths[1:])

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (N,3,H,W) in [0,1] → logits [(N,1,H/2,W/2), (N,1,H/4,W/4), (N,1,H/8,W/8)]."""
        features = self.stages[0](image * 2 - 1)
        logits = []
        for stage, head in zip(self.stages[1:], self.heads):
            features = stage(F.avg_pool2d(features, 2))
            logits.append(head(features))
        return logits


def critic_loss(real: list[Tensor], fake: list[Tensor], where: Tensor | None = None) -> Tensor:
    """What the critic is charged for, mean over scales: log(1 + exp(fake − real)), patch by patch.

    where  (N,1,H,W): weight of each place; None for all alike

    Relativistic pairing (Jolicoeur-Martineau, 2018; Huang et al., "R3GAN", 2024): photograph and repainted image show
    the same scene, so that a patch's content cancels and its realism is judged.
    """
    losses = [F.softplus(f.float() - r.float()) for r, f in zip(real, fake)]
    if where is not None:
        losses = [loss * F.adaptive_avg_pool2d(where, (loss.shape[2], loss.shape[3])) for loss in losses]
    return torch.stack([loss.mean() for loss in losses]).mean()


def generator_loss(real: list[Tensor], fake: list[Tensor], where: Tensor | None = None) -> Tensor:
    """What the generator is charged for being told apart from the photographs, mean over scales."""
    return critic_loss(fake, real, where)


class Adversary:
    """A critic that is trained beside a network, and what it thinks of it.

    accelerator  of the training
    lr           peak learning rate
    """

    def __init__(self, accelerator: Accelerator, lr: float):
        self._accelerator = accelerator
        self.critic = PatchCritic().to(accelerator.device)
        self._optimiser = accelerator.prepare(short_memory(self.critic, lr))
        self.prepared = accelerator.prepare(self.critic)

    def parts(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"critic": self.critic, "critic_optimiser": self._optimiser}

    def loss(self, images: Tensor, made: Tensor, step: int, factor: float, where: Tensor | None = None) -> Tensor:
        """Trains the critic on photographs and ``made`` images (N,3,H,W); returns what the network is charged, ().

        where  (N,1,H,W): how much the network is charged at each place; None for all alike

        The charge grows over the first `GROWS_OVER` steps: a new critic knows nothing.
        """
        self._train(images, made.detach(), factor)
        return min(1.0, step / GROWS_OVER) * self._opinion(images, made, where)

    def _train(self, images: Tensor, made: Tensor, factor: float) -> None:
        with self._accelerator.autocast():
            scales = [scale.chunk(2) for scale in self.prepared(torch.cat((images, made)))]
            loss = critic_loss([real for real, _ in scales], [fake for _, fake in scales])
        self._accelerator.backward(loss)
        if self._accelerator.sync_gradients:
            take_step(self._accelerator, [self._optimiser], self.critic, factor)

    def _opinion(self, images: Tensor, made: Tensor, where: Tensor | None) -> Tensor:
        """The network's loss before the critic, which learns nothing from it."""
        self.critic.requires_grad_(False)
        with self._accelerator.autocast():
            with torch.no_grad():
                real = self.critic(images)
            loss = generator_loss(real, self.critic(made), where)
        self.critic.requires_grad_(True)
        return loss
