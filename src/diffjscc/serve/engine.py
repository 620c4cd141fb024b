# SPDX-License-Identifier: GPL-3.0-or-later
"""The refiners of a server, and a batch through one of them. torch is imported when the first is loaded, not before."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..hub import ModelEntry, find_model
from ..images import to_pixels, to_tensor
from .backend import Batch, OnStep
from .side_by_side import side_by_side

logger = logging.getLogger(__name__)

#: Seconds between previews: each costs a run of the VAE's decoder.
PREVIEW_SECONDS = 1.0


class Engine:
    """Refiners by name, loaded when first asked for; where they do not all fit, the one that was not used for longest goes.

    refiners     names or folders of `hub.find_model`; requests can give only these, by the folder's name
    device     "cpu", "cuda", …
    memory     bytes of weights that may be loaded at once; none: no bound
    threads    of torch on a CPU; none: torch's choice
    captioner  as in `hub.load_refiner`, for all of them

    Raises ValueError where a refiner does not exist or shares its name with another.
    """

    def __init__(
        self,
        refiners: Sequence[str | os.PathLike],
        device: str = "cpu",
        memory: float | None = None,
        threads: int | None = None,
        captioner: str | os.PathLike | None = None,
    ):
        self._entries: dict[str, ModelEntry] = {}
        for refiner in refiners:
            entry = find_model(refiner, "refiner")
            if self._entries.setdefault(entry.name, entry).path != entry.path:
                raise ValueError(f"two refiners are named '{entry.name}': rename the folder of one")
        if not self._entries:
            raise ValueError("no refiner is named: name at least one that requests may use")
        self.refiners = tuple(self._entries)
        self._device, self._memory, self._threads, self._captioner = device, memory, threads, captioner
        self._loaded: OrderedDict[str, object] = OrderedDict()

    def prepare(self) -> None:
        """Imports torch and loads the first refiner, so that the first request need not wait.

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

    def run(self, batch: Batch, on_step: OnStep) -> list[np.ndarray]:
        """Refined pixels of each item, whatever else is in the batch. Raises ValueError for what the refiner does not take."""
        import torch

        refiner = self._refiner(batch.refiner)
        if self._device != "cpu" or len(batch.items) == 1:
            return self._run(refiner, batch, on_step)

        def run_one(index: int) -> np.ndarray:
            def stepped(step: int, steps: int, previews: dict[int, np.ndarray], items=None) -> None:
                on_step(step, steps, dict.fromkeys(previews and (index,), previews.get(0)), (index,))

            shown = (0,) if index in batch.previews else ()
            return self._run(refiner, replace(batch, items=(batch.items[index],), previews=shown), stepped)[0]

        return side_by_side(run_one, len(batch.items), torch.get_num_threads())

    def _run(self, refiner, batch: Batch, on_step: OnStep) -> list[np.ndarray]:
        """One pass of all items together."""
        import torch

        pixels = np.stack([item.pixels for item in batch.items])
        snrs = [float("nan") if item.snr_db is None else item.snr_db for item in batch.items]
        prompts = [item.prompt for item in batch.items]
        steps = batch.steps or refiner.config.defaults["steps"]
        shown = time.monotonic()

        def stepped(pipeline, step: int, timestep, state: dict) -> None:
            nonlocal shown
            previews = {}
            if step + 1 < steps and batch.previews and time.monotonic() - shown >= PREVIEW_SECONDS:
                shown = time.monotonic()
                size = pixels.shape[1:3]
                previews = {index: self._preview(pipeline, state["latents"][index], size) for index in batch.previews}
            # A strength below 1 would take fewer; requests have none.
            on_step(step + 1, steps, previews)

        refined = refiner(
            to_tensor(pixels).to(self._device),
            torch.tensor(snrs),
            None if None in prompts else prompts,
            steps=batch.steps,
            sampler=batch.sampler,
            generator=[torch.Generator().manual_seed(item.seed) for item in batch.items],
            callback_on_step_end=stepped,
        )
        return list(to_pixels(refined))

    def memory(self) -> dict[str, float]:
        """Bytes of memory in use on each GPU, by whatever process; empty without one, or before torch is there."""
        torch = sys.modules.get("torch")
        if torch is None or not self._device.startswith("cuda") or not torch.cuda.is_initialized():
            return {}
        free, total = torch.cuda.mem_get_info(self._device)
        return {self._device: total - free}

    @staticmethod
    def _preview(pipeline, latent, size: tuple[int, int]) -> np.ndarray:
        from ..refine.pipeline import FALLBACK_TILE

        tile = FALLBACK_TILE if size[0] * size[1] > pipeline.whole_pixels else None
        return to_pixels(pipeline.decode(latent[None], tile)[..., : size[0], : size[1]])[0]

    def _refiner(self, name: str):
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        from ..hub import load_refiner

        while self._loaded and self._memory is not None and self._used() + self._expected(name) > self._memory:
            gone, _ = self._loaded.popitem(last=False)
            logger.info("refiner %s leaves, to make room for %s", gone, name)
            self._collect()
        start = time.monotonic()
        self._loaded[name] = load_refiner(self._entries[name].path, self._device, captioner=self._captioner)
        logger.info("refiner %s loaded on %s in %.1f s", name, self._device, time.monotonic() - start)
        return self._loaded[name]

    def _expected(self, name: str) -> float:
        """Bytes of a refiner's weights once loaded; files hold two a weight."""
        from ..hub import default_dtype

        return self._entries[name].size * default_dtype(self._device).itemsize / 2

    def _used(self) -> int:
        """Bytes of the weights that are loaded."""
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
