# SPDX-License-Identifier: GPL-3.0-or-later
"""Optimisers: Muon (Jordan et al., 2024; torch.optim.Muon) for convolutions, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn


def build_optimisers(
    module: nn.Module, lr: float, muon_lr: float, narrowest: int = 32, slow: Collection[Tensor] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for convolutions between at least ``narrowest`` channels on both sides, AdamW for stems, heads, norms, biases.

    ``slow`` parameters get a tenth of AdamW's rate. Every group holds its rate as "peak_lr", for schedules to multiply.
    """
    convolutions = {
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and min(layer.in_channels, layer.out_channels) >= narrowest
    } - set(slow)
    others = [p for p in module.parameters() if p not in convolutions and p not in slow]
    groups = [{"params": others, "lr": lr}]
    if slow:
        groups.append({"params": [p for p in module.parameters() if p in slow], "lr": lr / 10})
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)]
    if convolutions:
        optimisers.append(FlatMuon([p for p in module.parameters() if p in convolutions], lr=muon_lr))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers


def short_memory(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW with little momentum: two networks that pull against each other would swing on long ones."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.5, 0.99), weight_decay=0)
    optimiser.param_groups[0]["peak_lr"] = lr
    return optimiser


class FlatMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only, on convolution kernels seen as (out, in·h·w).

    The kernels must be contiguous (not channels-last), for their matrices to be views of them.
    """

    def __init__(self, kernels: list[nn.Parameter], lr: float):
        self.kernels = kernels
        # Views share storage with the kernels, so that a step on one is a step on the other.
        super().__init__([nn.Parameter(kernel.detach().view(len(kernel), -1)) for kernel in kernels], lr=lr, weight_decay=0.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self.kernels:
            kernel.grad = None

    def step(self, closure=None):
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"]):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)


def take_step(optimisers: list[torch.optim.Optimizer], module: nn.Module, factor: float, clip: float = 1.0) -> bool:
    """One step at ``factor`` times each group's "peak_lr"; False, and no step, where the gradient is not finite."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
    # One batch whose gradient overflows must not cost the run.
    if not torch.isfinite(norm):
        return False
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimiser.step()
    return True
