# SPDX-License-Identifier: GPL-3.0-or-later
"""The running average of a network's weights, which is what a training exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RunningAverage:
    """The exponential moving average of a module's weights; its first steps remember less, so that it forgets the start.

    module  whose weights are averaged
    decay   share of the average that a step keeps; 0: the average is the last step's weights
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay, self.updates = module, decay, 0
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        averages, values = [], []
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                averages.append(self.values[name])
                values.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def __enter__(self) -> nn.Module:
        """The module with averaged weights, for the length of a ``with`` block."""
        self._training = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        self.module.eval()
        return self.module

    def __exit__(self, *exception: object) -> None:
        self.module.load_state_dict(self._training)
        self.module.train()
        del self._training

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])
