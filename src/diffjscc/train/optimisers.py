# SPDX-License-Identifier: GPL-3.0-or-later
"""Optimisers, Adam, AdamW and Muon (Jordan et al., 2024; torch.optim.Muon), and how their learning rates change."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

#: "adam": Adam as the paper uses it. "muon": Muon for wide convolutions, AdamW for stems, heads, norms and biases.
KINDS = ("adam", "muon")

#: Largest norm of a gradient.
MAX_NORM = 1.0


def build_optimisers(
    module: nn.Module, kind: str, lr: float, muon_lr: float, narrowest: int = 32, slow: Collection[Tensor] = ()
) -> list[torch.optim.Optimizer]:
    """Optimisers of a network; every group holds its learning rate as "peak_lr", for schedules to multiply.

    kind       one of `KINDS`
    lr         of Adam or AdamW
    muon_lr    of Muon
    narrowest  Muon takes convolutions between at least so many channels on both sides
    slow       parameters with a tenth of ``lr``
    """
    parameters = list(module.parameters())
    convolutions = {
        layer.weight
        for layer in module.modules()
        if kind == "muon" and isinstance(layer, nn.Conv2d) and min(layer.in_channels, layer.out_channels) >= narrowest
    } - set(slow)
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if p not in convolutions and p not in slow], "lr": lr}]
    if slow:
        groups.append({"params": [p for p in parameters if p in slow], "lr": lr / 10})
    fused = all(p.is_cuda for p in parameters)
    if kind == "adam":
        optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, fused=fused)]
    else:
        optimisers = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4, fused=fused)]
    if convolutions:
        optimisers.append(FlatMuon([p for p in parameters if p in convolutions], lr=muon_lr))
    return with_peaks(optimisers)


def short_memory(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW with little momentum: two networks that train against each other would oscillate with long ones."""
    return with_peaks([torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.5, 0.99), weight_decay=0)])[0]


def with_peaks(optimisers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """The optimisers, each group's learning rate kept as "peak_lr" too, which `take_step` needs."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers


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
            # DistributedDataParallel has given the kernels new storage since.
            matrix.data = kernel.detach().view(len(kernel), -1)
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)


def take_step(accelerator: Accelerator, optimisers: list[Any], module: nn.Module, factor: float) -> None:
    """One step at ``factor`` times each group's "peak_lr", the gradient's norm limited to `MAX_NORM`."""
    accelerator.clip_grad_norm_(module.parameters(), MAX_NORM)
    # A batch whose gradient overflows must not cost the run: it becomes a step of momentum alone. Asking first whether it
    # did would make a GPU wait for the answer.
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimiser.step()
        optimiser.zero_grad()


def linear(step: int, steps: int, decay: float, warm_up: int) -> float:
    """Factor on a learning rate: a rise over ``warm_up`` steps, a plateau, and a straight fall to zero.

    The fall takes the last ``decay`` of the steps, a share of 0 to 1.
    """
    return min(1.0, (step + 1) / max(1, warm_up), max(0.0, 1 - step / steps) / decay)


def cosine(step: int, steps: int, decay: float, warm_up: int) -> float:
    """The same with half a cosine in place of the straight fall; decay = 1 is the usual cosine decay."""
    fallen = max(0.0, step / steps - (1 - decay)) / decay
    return min(1.0, (step + 1) / max(1, warm_up)) * (1 + math.cos(math.pi * min(1.0, fallen))) / 2


SCHEDULES: dict[str, Callable[[int, int, float, int], float]] = {"linear": linear, "cosine": cosine}
