# SPDX-License-Identifier: GPL-3.0-or-later
"""What every training has in common: a folder, checkpoints about every minute, and going on from the last one."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..images import read_image, to_tensor
from ..symbols import BLOCK


@dataclass(frozen=True)
class Progress:
    """What a caller is told after each step: ``scores`` are the held-out measures by name, as last taken."""

    step: int
    loss: float
    scores: dict[str, float]


class Run(ABC):
    """A training in a folder that can be killed at any time.

    out/checkpoint.pt   everything that the run needs to go on
    out/recipe.json     what it computes
    out/model/          the averaged weights, ready to be named by a path

    A training supplies `parts`, `train_step`, `validate` and `export`, and calls `resume` when it is built.
    """

    def __init__(self, out: str | Path, description: dict, steps: int, checkpoint_seconds: float = 50.0):
        """Raises ValueError where ``out`` holds a run with another description; "steps" may differ."""
        self.out, self.steps = Path(out), steps
        self.step = 0
        self.scores: dict[str, float] = {}
        # As it will be read again: JSON knows no tuples.
        self._description, self._checkpoint_seconds = json.loads(json.dumps(description)), checkpoint_seconds
        self._checkpoint = self.out / "checkpoint.pt"
        self.resuming = self._checkpoint.exists()
        if self.resuming:
            self._check_same_run()

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Everything with a state_dict that a checkpoint keeps."""

    @abstractmethod
    def train_step(self) -> float:
        """One optimiser step for ``self.step``; returns the loss."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out measures of the averaged weights, by name."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Writes the averaged weights as a model."""

    def run(self, on_step: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Trains to the last step and returns the folder of the exported model."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "recipe.json").write_text(json.dumps(self._description, indent=2) + "\n")
        saved = time.monotonic()
        while self.step < self.steps:
            loss = self.train_step()
            self.step += 1
            if time.monotonic() - saved > self._checkpoint_seconds or self.step == self.steps:
                self.scores = self.validate()
                self.save()
                saved = time.monotonic()
            on_step(Progress(self.step, loss, self.scores))
        return self.out / "model"

    def save(self) -> None:
        """Writes checkpoint.pt and model/; a kill in between leaves the former ones."""
        state = {"step": self.step, "scores": self.scores}
        state |= {name: part.state_dict() for name, part in self.parts().items()}
        partial = self._checkpoint.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self._checkpoint)
        self.export(self.out / "model")

    def resume(self) -> None:
        """Loads the checkpoint, where there is one."""
        if not self.resuming:
            return
        state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        self.step, self.scores = state["step"], state["scores"]
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def _check_same_run(self) -> None:
        before = json.loads((self.out / "recipe.json").read_text())
        # More steps, or fewer, is how a run is prolonged or wound up early.
        changed = [k for k, v in self._description.items() if k != "steps" and before.get(k) != v]
        if changed:
            raise ValueError(f"{self.out} holds a run with another {', '.join(changed)}: give the same options, or another --out")


class RunningAverage:
    """The exponential moving average of a module's weights; its first steps remember less, so that it forgets the start."""

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay, self.updates = module, decay, 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    def __enter__(self) -> nn.Module:
        """The module with averaged weights, for the length of a ``with`` block."""
        self._training = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        self.module.eval()
        return self.module

    def __exit__(self, *exception) -> None:
        self.module.load_state_dict(self._training)
        self.module.train()

    def state_dict(self) -> dict:
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])


def warm_up_then_fall(step: int, steps: int, decay: float) -> float:
    """Factor on a learning rate: up over 100 steps, a plateau, a linear fall to zero over the last ``decay`` of the steps."""
    return min(1.0, (step + 1) / 100, max(0.0, 1 - step / steps) / decay)


def whole_blocks(path: Path) -> Tensor:
    """The image in a file, cut to multiples of 16: (1, 3, H, W)."""
    pixels = read_image(path)
    height, width = (side - side % BLOCK for side in pixels.shape[:2])
    return to_tensor(pixels[:height, :width])[None]
