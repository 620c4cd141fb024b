# SPDX-License-Identifier: GPL-3.0-or-later
"""The refiners of a server, and the computation of a batch. torch is imported when the first refiner is loaded."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..hub import ModelEntry, find_model
from ..images import to_pixels, to_tensor
from .backend import Batch, OnStep
from .parallel import parallel_map

if TYPE_CHECKING:
    from torch import Tensor

    from ..refine.pipeline import DiffJSCCPipeline

logger = logging.getLogger(__name__)

#: Seconds between previews: each costs a pass through the VAE's decoder.
PREVIEW_SECONDS = 1.0


class Engine:
    """Refiners by name, loaded on first use; where they do not all fit in memory, the least recently used is unloaded (LRU).

    refiners   names or folders, as `hub.find_model` takes them; requests name them by the names of their folders
    device     "cpu", "cuda", …
    memory     bytes of weights that may be loaded at the same time; None: no bound
    threads    of torch on a CPU; None: torch's default
    captioner  as in `hub.load_refiner`, for all refiners

    Raises ValueError where a refiner does not exist or two have the same name, and for less than one thread.
    """

    def __init__(
        self,
        refiners: Sequence[str | os.PathLike],
        device: str = "cpu",
        memory: float | None = None,
        threads: int | None = None,
        captioner: str | os.PathLike | None = None,
    ):
        if threads is not None and threads < 1:
            raise ValueError(f"threads = {threads}: must be at least 1")
        self._entries: dict[str, ModelEntry] = {}
        for refiner in refiners:
            entry = find_model(refiner, "refiner")
            if self._entries.setdefault(entry.name, entry).path != entry.path:
                raise ValueError(f"two refiners are named '{entry.name}': rename the folder of one")
        if not self._entries:
            raise ValueError("no refiner is named: name at least one that requests may use")
        self.refiners = tuple(self._entries)
        self._device, self._memory, self._threads, self._captioner = device, memory, threads, captioner
        self._loaded: OrderedDict[str, DiffJSCCPipeline] = OrderedDict()

    def prepare(self) -> None:
        """Imports torch and loads the first refiner, which the first request would otherwise wait for.

        Raises ValueError where a refiner does not fit in the memory by itself.
        """
        import torch

        if self._threads is not None:
            torch.set_num_threads(self._threads)
        for name in self.refiners:
            if self._memory is not None and self._expected(name) > self._memory:
                needed, budget = self._expected(name) / 1e6, self._memory / 1e6
                raise ValueError(f"refiner '{name}' takes {needed:.0f} MB of memory, the budget is {budget:.0f} MB: raise it")
        self._refiner(self.refiners[0])

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def run(self, batch: Batch, on_step: OnStep, pause: Callable[[], None] = lambda: None) -> list[np.ndarray]:
        """Refined pixels of each item, on which the other items have no influence; ``pause`` is called between tiles.

        Raises ValueError for parameters that the refiner refuses.
        """
        import torch

        from ..refine.tiling import between_tiles

        with between_tiles(pause):
            return self._run_all(batch, on_step, torch.get_num_threads())

    def _run_all(self, batch: Batch, on_step: OnStep, threads: int) -> list[np.ndarray]:
        """One pass, or on a CPU one thread for each item."""
        refiner = self._refiner(batch.refiner)
        if self._device != "cpu" or len(batch.items) == 1:
            return self._run(refiner, batch, on_step)

        def run_one(index: int) -> np.ndarray:
            def stepped(step: int, steps: int, previews: dict[int, np.ndarray], items: tuple[int, ...] | None = None) -> None:
                # In its batch of one, the item has index 0.
                on_step(step, steps, {index: previews[0]} if 0 in previews else {}, (index,))

            shown = (0,) if index in batch.previews else ()
            return self._run(refiner, replace(batch, items=(batch.items[index],), previews=shown), stepped)[0]

        return parallel_map(run_one, len(batch.items), threads)

    def _run(self, refiner: DiffJSCCPipeline, batch: Batch, on_step: OnStep) -> list[np.ndarray]:
        """All items in one pass."""
        import torch

        pixels = np.stack([item.pixels for item in batch.items])
        snrs = [float("nan") if item.snr_db is None else item.snr_db for item in batch.items]
        # A batch has a prompt for each item or for none: see `Task.kind`.
        prompts = [item.prompt for item in batch.items if item.prompt is not None]
        steps = batch.steps or refiner.defaults["num_inference_steps"]
        shown = time.monotonic()

        def stepped(pipeline: DiffJSCCPipeline, step: int, timestep: Tensor, state: dict) -> None:
            nonlocal shown
            previews = {}
            if step + 1 < steps and batch.previews and time.monotonic() - shown >= PREVIEW_SECONDS:
                shown = time.monotonic()
                size = pixels.shape[1:3]
                previews = {index: self._preview(pipeline, state["latents"][index], size) for index in batch.previews}
            # A strength below 1 would take fewer steps; the protocol has no strength.
            on_step(step + 1, steps, previews)

        refined = refiner(
            to_tensor(pixels).to(self._device),
            torch.tensor(snrs),
            prompts if len(prompts) == len(batch.items) else None,
            num_inference_steps=batch.steps,
            sampler=batch.sampler,
            generator=[torch.Generator().manual_seed(item.seed) for item in batch.items],
            output_type="pt",
            callback_on_step_end=stepped,
        ).images
        return list(to_pixels(refined))

    def memory(self) -> dict[str, float]:
        """Bytes of memory in use on the GPU, by all processes; empty without a GPU, or before torch has been imported."""
        torch = sys.modules.get("torch")
        if torch is None or not self._device.startswith("cuda") or not torch.cuda.is_initialized():
            return {}
        free, total = torch.cuda.mem_get_info(self._device)
        return {self._device: total - free}

    @staticmethod
    def _preview(pipeline: DiffJSCCPipeline, latent: Tensor, size: tuple[int, int]) -> np.ndarray:
        from ..refine.pipeline import FALLBACK_TILE

        tile = FALLBACK_TILE if size[0] * size[1] > pipeline.whole_pixels else None
        return to_pixels(pipeline.decode(latent[None], tile)[..., : size[0], : size[1]])[0]

    def _refiner(self, name: str) -> DiffJSCCPipeline:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        from ..hub import load_refiner

        while self._loaded and self._memory is not None and self._used() + self._expected(name) > self._memory:
            unloaded, _ = self._loaded.popitem(last=False)
            logger.info("refiner %s is unloaded to make room for %s", unloaded, name)
            self._collect()
        start = time.monotonic()
        self._loaded[name] = load_refiner(self._entries[name].path, self._device, captioner=self._captioner)
        logger.info("refiner %s loaded on %s in %.1f s", name, self._device, time.monotonic() - start)
        return self._loaded[name]

    def _expected(self, name: str) -> float:
        """Bytes of a refiner's weights once loaded; in its files each takes two."""
        from ..hub import default_dtype

        return self._entries[name].size * default_dtype(self._device).itemsize / 2

    def _used(self) -> int:
        """Bytes of the loaded weights."""
        return sum(
            parameter.numel() * parameter.element_size()
            for refiner in self._loaded.values()
            for part in refiner.components.values()
            if hasattr(part, "parameters")
            for parameter in part.parameters()
        )

    @staticmethod
    def _collect() -> None:
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
