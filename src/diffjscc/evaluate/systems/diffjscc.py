# SPDX-License-Identifier: GPL-3.0-or-later
"""DiffJSCC: deep joint source-channel coding with refinement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...hub import DEFAULT_REFINER, load_refiner
from .base import Sent
from .deepjscc import DeepJSCC

if TYPE_CHECKING:
    from ...refine.pipeline import DiffJSCCPipeline


@lru_cache(maxsize=2)
def shared_refiner(name: str, dtype: str, captioner: str) -> DiffJSCCPipeline:
    """A refiner on the CPU, loaded once for all systems of a process."""
    return load_refiner(name, "cpu", getattr(torch, dtype), captioner or None)


@dataclass(frozen=True, kw_only=True)
class DiffJSCC(DeepJSCC):
    """image ─► codec ─► symbols ─► channel ─► codec ─► initial reconstruction ─► refiner ─► refined image

    refiner     name or folder of a refiner
    steps, strength, sampler, colour_fix, tile   as in the refiner's call; 0 or "": its own defaults
    captioner   BLIP-2 that captions initial reconstructions: folder, or id on the hub; "": no text
    use_snr, use_text, use_spatial   false leaves out the refiner's input of that kind, as in the paper's ablation (figure 6)
    latent_guidance  scale of the pull towards the initial reconstruction; 0: none
    """

    name: ClassVar[str] = "diffjscc"

    refiner: str = DEFAULT_REFINER
    steps: int = 0
    strength: float = 0.0
    sampler: str = ""
    colour_fix: str = ""
    tile: int = 0
    captioner: str = ""
    use_snr: bool = True
    use_text: bool = True
    use_spatial: bool = True
    latent_guidance: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.check("steps", self.steps >= 0, "at least 1, or 0 for the refiner's own")
        self.check("latent_guidance", self.latent_guidance >= 0, "at least 0")
        pipeline = self._load_refiner()
        options = self._options()
        chosen = {name: options[name] for name in pipeline.defaults if options.get(name) is not None}
        pipeline.check_inputs(
            pipeline.defaults | chosen,
            options["sampler"],
            options.get("latent_guidance"),
            options["tile"],
            "pt",
            (),
            options.get("range_null"),
        )

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """As `System.send`; the budget must be that of one of the codec's rates."""
        sent = super().send(image, budget, snr_db, channel, seed)
        assert sent.image is not None
        pipeline = self._load_refiner()
        # Noise and fading are drawn from odd seeds (see `diffjscc.channel`).
        generator = torch.Generator().manual_seed(seed << 1)
        snr = float(sent.details["rx_snr_db"])
        refined = pipeline(sent.image, snr, generator=generator, output_type="pt", **self._options()).images[0]
        details = sent.details | {"refiner": self.refiner, "steps": int(pipeline.num_timesteps)}
        return Sent(refined.float().cpu(), sent.channel_uses, details)

    def _options(self) -> dict[str, Any]:
        """Of the refiner's call."""
        options: dict[str, Any] = {
            "num_inference_steps": self.steps or None,
            "strength": self.strength or None,
            "colour_fix": self.colour_fix or None,
            "sampler": self.sampler or None,
            "tile": self.tile or None,
            "use_snr": self.use_snr,
            "use_text": self.use_text,
            "controlnet_conditioning_scale": float(self.use_spatial),
        }
        if self.latent_guidance:
            from ...refine.guidance import LatentGuidance

            options["latent_guidance"] = LatentGuidance(self.latent_guidance)
        return options

    def _load_refiner(self) -> DiffJSCCPipeline:
        return shared_refiner(self.refiner, self.dtype, self.captioner)
