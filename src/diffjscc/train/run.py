# SPDX-License-Identifier: GPL-3.0-or-later
"""What every training has in common: Accelerate, a folder, a checkpoint a minute, and going on from the last one."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from ..weights import check_finite
from . import card
from .dataset import Prefetch, RandomCrops, Unreadable, find_files, fingerprint, spare_threads, split
from .devices import make_accelerator, within_memory
from .draws import Draws, generator
from .folder import RunFolder, same_run
from .optimisers import take_step
from .recipes import FREE_KEYS, Recipe, as_values

#: Writing checkpoints, and measuring and exporting, may take these shares of the time.
SAVING, MEASURING = 0.2, 0.05

#: Seconds between two agreements of several processes on whether to write a checkpoint or to stop.
AGREE_SECONDS = 2.0

#: Steps between which the loss is read back from a GPU.
LOSS_EVERY = 20

#: Losses in a row that are no number, after which a training is given up.
MAX_LOST = 20

#: Seconds between scalars for trackers.
LOG_SECONDS = 5.0
#: Images are shown to trackers each time that a training has grown by this factor: about 15 times from the first hour to the
#: last of a day. They are large.
SHOW_EVERY = 1.25

#: How a tracker is told that images are (N, H, W, 3).
_LAYOUT = {"tensorboard": {"dataformats": "NHWC"}}

#: Name of an independent stream of random numbers, beside those of `Draws`.
_NETWORKS = 2


@dataclass(frozen=True)
class Progress:
    """What a caller is told of a step: ``scores`` are the held-out measures by name, as last taken."""

    step: int
    loss: float
    scores: Mapping[str, float]


class Pace:
    """Says when something is due again: after ``seconds``, and late enough that it takes at most its ``share`` of the time."""

    def __init__(self, seconds: float, share: float):
        self._seconds, self._share, self._cost = seconds, share, 0.0
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= max(self._seconds, self._cost / self._share)

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self._last = time.monotonic()
        self._cost = self._last - self._began


class Run(ABC):
    """A training in a folder (see `RunFolder`) that can be stopped or killed at any time, and goes on.

    On a CPU a run that was stopped and goes on computes the same as one that was not, bit for bit. `accelerate launch` runs
    it on several GPUs or hosts, which share each batch.

    A training supplies the abstract methods, and calls `prepare` in `build`.
    """

    #: Pixels at the edges of a crop that a training cuts off itself.
    margin = 0

    #: Set by `build`: the network that `loss` runs, as `prepare` returned it, and the optimisers of it.
    network: nn.Module
    optimisers: list[Any]

    def __init__(
        self,
        recipe: Recipe,
        data: Sequence[str | Path],
        out: str | Path,
        device: str = "",
        checkpoint_seconds: float = 60.0,
        tracker: str = "",
    ):
        """Prepares a new run, or goes on with the one in ``out``.

        recipe  what to compute
        data    folders of images, with or without shards
        out     folder of the run
        device  "cpu" or "cuda"; "" for Accelerate's choice
        checkpoint_seconds  time between checkpoints
        tracker "tensorboard", or another that Accelerate knows; "" for none

        Raises ValueError where ``data`` holds no images, ``out`` another run or a damaged one, the device is not there, or
        memory is exhausted.
        """
        self.recipe: Any = recipe
        self.data = [Path(folder) for folder in data]
        self.folder = RunFolder(out)
        self.step, self.seconds = 0, 0.0
        self.scores: dict[str, float] = {}
        files = find_files(data)
        self.training, self.held_out = split(files)
        self.description = {**as_values(recipe), "images": len(files), "fingerprint": fingerprint(files)}
        before = self.folder.description()
        self.resuming = before is not None
        if before is not None:
            self._check_same_run(before)
        self.accelerator = make_accelerator(recipe, device, self.folder.logs, tracker)
        self.device = self.accelerator.device
        self.unreadable = Unreadable(len(files))
        self.crops = RandomCrops(self.training, recipe.crop + self.margin, recipe.seed, self.unreadable)
        torch.manual_seed(recipe.seed)
        with within_memory("the networks do not fit; choose smaller ones, or a machine with more"):
            self.build()
            if self.resuming:
                self._resume()
        self._tracked = bool(tracker)
        if tracker:
            with self.folder.writing():
                self.accelerator.init_trackers("run")
        self._saving, self._measuring = Pace(checkpoint_seconds, SAVING), Pace(checkpoint_seconds, MEASURING)
        self._stop = False

    # --- what a training supplies --------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Makes networks and optimisers; new ones where not ``self.resuming``, else any of the same shape."""

    @abstractmethod
    def loss(self, images: Tensor, indices: list[int], draws: Draws, factor: float) -> Tensor:
        """The loss of some crops.

        images   (N,3,size,size) in [0, 1]
        indices  of the images that they are from, in ``self.training``
        draws    where everything random comes from
        factor   on the learning rates at this step
        """

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Everything with a state_dict that a checkpoint keeps, by name."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out measures of the weights to be exported, by name."""

    @abstractmethod
    def preview(self) -> dict[str, Tensor]:
        """Held-out images for trackers, by what they show: (N, 3, H, W) in [0, 1]."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Writes the trained weights as a model."""

    @abstractmethod
    def schedule(self, step: int) -> float:
        """Factor on the learning rates at a step."""

    def after_step(self) -> None:  # noqa: B027, a training may have nothing to do then
        """Called after each step of the optimisers."""

    def prepared(self) -> list[nn.Module]:
        """Every network that is trained, as `prepare` returned it."""
        return [self.network]

    # --- the loop ------------------------------------------------------------------------------------------------------------

    def run(self, on_step: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Trains to the last step, or until `stop`; returns the folder of the model, which is written by then.

        Raises ValueError where memory or the disk is exhausted, or the loss is no number any more; the last checkpoint stands.
        """
        main = self.accelerator.is_main_process
        if main:
            self.folder.open()
            self.folder.write("recipe.json", json.dumps(self.description, indent=2) + "\n")
        batches = Prefetch(self._batches, self.recipe.steps, spare_threads(self.device))
        began, stopped = self.step, False
        try:
            while self.step < self.recipe.steps and not stopped:
                start = time.monotonic()
                with within_memory(self._with_less_memory()):
                    loss = self._train_step(batches(self.step))
                self.step += 1
                self.seconds += time.monotonic() - start
                stopped, saving = self._agree()
                if self.step == self.recipe.steps or stopped:
                    self.save()
                elif saving:
                    self.save(everything=self._measuring.due())
                on_step(Progress(self.step, loss, self.scores))
            # It was complete, but may have been killed between the last checkpoint and the model.
            if self.step == began:
                self.save(measure=not self.scores)
            with self.folder.writing():
                self.accelerator.end_training()
        finally:
            batches.close()
            self.folder.close()
        return self.folder.model

    def stop(self) -> None:
        """Ends `run` after the step in hand, with a checkpoint and a model; for signal handlers."""
        self._stop = True

    def _batches(self, step: int) -> list[tuple[Tensor, list[int], Draws]]:
        """This process's share of a step's crops, in as many parts as are computed one after the other."""
        recipe: Recipe = self.recipe
        share = recipe.batch // self.accelerator.num_processes
        first, size = step * recipe.batch + self.accelerator.process_index * share, share // recipe.accumulate
        parts = []
        for begin in range(first, first + share, size):
            numbers = range(begin, begin + size)
            parts.append((*self.crops(numbers), Draws(recipe.seed, numbers, step)))
        return parts

    def _train_step(self, parts: list[tuple[Tensor, list[int], Draws]]) -> float:
        # For networks that draw by themselves, such as dropout.
        torch.manual_seed(generator(self.recipe.seed, _NETWORKS, self.step, self.accelerator.process_index).initial_seed())
        total = torch.zeros((), device=self.device)
        factor = self.schedule(self.step)
        for images, indices, draws in parts:
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            with self.accelerator.accumulate(*self.prepared()):
                loss = self.loss(images, indices, draws, factor)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    take_step(self.accelerator, self.optimisers, self.network, factor)
                    self.after_step()
            total += loss.detach() / len(parts)
        # A GPU should not wait for a number that few look at.
        if self.device.type == "cpu" or self.step % LOSS_EVERY == 0:
            self._loss = total.item()
            self._count_lost()
        self._log({"loss": self._loss, "learning rate": factor})
        return self._loss

    _loss, _lost, _next_agreement = math.nan, 0, 0

    def _count_lost(self) -> None:
        self._lost = 0 if math.isfinite(self._loss) else self._lost + 1
        if self._lost >= MAX_LOST:
            raise ValueError(
                f"the loss has not been a number for a while at step {self.step}: the training has diverged. Give a smaller lr="
                f" and another --out; {self.folder.path} keeps the checkpoint before"
            )

    def _agree(self) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due, as the main process says; several processes ask it now and then."""
        stop, due = self._stop, self._saving.due()
        if self.accelerator.num_processes == 1:
            return stop, due
        if self.step < self._next_agreement:
            return False, False
        steps = max(1, int(AGREE_SECONDS / max(self.seconds / self.step, 1e-6)))
        stop, due, self._next_agreement = broadcast_object_list([stop, due, self.step + steps])
        return stop, due

    def _with_less_memory(self) -> str:
        if self.resuming or self.folder.checkpoint.exists():
            return f"give accumulate=2 or more, with which the run in {self.folder.path} goes on"
        return f"give accumulate=2 or more, or a smaller batch= or crop= (now {self.recipe.batch} and {self.recipe.crop})"

    # --- checkpoints ---------------------------------------------------------------------------------------------------------

    def save(self, everything: bool = True, measure: bool = True) -> None:
        """Writes the checkpoint and, unless told otherwise, measures and writes the model; all processes call it together.

        A kill in between leaves the former files. Raises ValueError where they cannot be written, or weights are no numbers.
        """
        self._share_unreadable()
        if self.accelerator.is_main_process:
            if everything and measure:
                with self._measuring:
                    self.scores = self.validate()
                    self._log(self.scores, now=True)
                    self._show()
            with self._saving:
                self.folder.save(self._state())
            if everything:
                with self._measuring, self.folder.new_model() as folder:
                    self.export(folder)
                    (folder / "README.md").write_text(card.text(self), encoding="utf-8")
            if self.unreadable:
                lines = (f"{name}: {error}\n" for name, error in sorted(self.unreadable.items()))
                self.folder.write("unreadable.txt", "".join(lines))
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        parts = self.parts()
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                # A checkpoint with NaN in it would be worse than none.
                check_finite(part.state_dict(), f"step {self.step}: {name}")
        state = {name: part.state_dict() for name, part in parts.items()}
        about = {"step": self.step, "seconds": self.seconds, "scores": self.scores, "unreadable": dict(self.unreadable)}
        return {"description": self.description, **about, **state}

    def _resume(self) -> None:
        state = self.folder.load()
        parts = self.parts()
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        try:
            self.step, self.seconds, self.scores = state["step"], state["seconds"], state["scores"]
            self.unreadable.update(state["unreadable"])
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.folder.checkpoint}: of another version ({type(error).__name__}): remove it to begin anew, or name"
                f" {self.folder.model} as start_from"
            ) from None

    def _check_same_run(self, before: Mapping[str, Any]) -> None:
        changed = same_run(before, self.description, FREE_KEYS)
        if "fingerprint" in changed:
            raise ValueError(
                f"{self.folder.path} holds a run on other images ({before.get('images')} of them, here are"
                f" {self.description['images']}): give the same --data, or another --out"
            )
        if changed:
            raise ValueError(
                f"{self.folder.path} holds a run with another {', '.join(changed)}: give the same recipe, or another --out"
            )

    def _share_unreadable(self) -> None:
        """What other processes could not read, to the main one."""
        if self.accelerator.num_processes > 1:
            for others in gather_object([dict(self.unreadable)]):
                self.unreadable.update(others)

    # --- trackers ------------------------------------------------------------------------------------------------------------

    _logged, _shown_at = -math.inf, 0

    def _log(self, values: Mapping[str, float], now: bool = False) -> None:
        if self._tracked and (now or time.monotonic() - self._logged > LOG_SECONDS):
            with self.folder.writing():
                self.accelerator.log(dict(values), step=self.step)
            if not now:
                self._logged = time.monotonic()

    def _show(self) -> None:
        """Shows trackers what the weights make of held-out images, if those have gone far enough since the last time."""
        trackers = [tracker for tracker in self.accelerator.trackers if hasattr(tracker, "log_images")]
        if not trackers or self.step < SHOW_EVERY * self._shown_at:
            return
        self._shown_at = self.step
        for name, images in self.preview().items():
            pixels = images.detach().float().clamp(0, 1).cpu().numpy().transpose(0, 2, 3, 1)
            for tracker in trackers:
                with self.folder.writing():
                    tracker.log_images({name: pixels}, step=self.step, **_LAYOUT.get(tracker.name, {}))
