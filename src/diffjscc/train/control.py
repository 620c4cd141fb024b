# SPDX-License-Identifier: GPL-3.0-or-later
"""Training the control module on a frozen Stable Diffusion, as in the paper (section III-C).

image ─► codec, channel at γ ─► initial ─► VAE ─► f_s ─┐
image ─► VAE ─► z_0 ─► noise at t ─► z_t ─────────────►│ control module ─► frozen UNet ─► ε̂      loss |ε − ε̂|²
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers.utils import logging as transformers_logging

from ..checkpoints import load_stable_diffusion
from ..hub import default_dtype, load_codec
from ..refine.captions import caption, load_captioner
from ..refine.loading import save_pipeline
from ..refine.pipeline import DiffJSCCPipeline
from ..symbols import rate_channels
from .channels import ChannelRecipe
from .codec_path import CodecPath, draw_conditions, receive
from .dataset import read_held_out
from .draws import Draws
from .grids import stacked
from .optimisers import with_peaks
from .recipes import Recipe
from .run import Run

#: Held-out images, and timesteps of each, on which the loss is measured, at this SNR in dB.
VALIDATION_IMAGES, VALIDATION_TIMESTEPS, VALIDATION_SNR_DB = 4, (100, 400, 700), 1.0

#: Of previews: images, pixels a side, and sampler steps.
SHOWN, SHOWN_SIDE, SHOWN_STEPS = 2, 256, 20


@dataclass(frozen=True, kw_only=True)
class ControlRecipe(Recipe):
    """What the training of a control module computes; recipes/control-sd21.yaml is the paper's.

    stable_diffusion  diffusers folder, or single file, of Stable Diffusion 2.1-base
    config     LDM configuration of a single file; "" for Stable Diffusion 2.1-base's
    codec      name or folder of the frozen codec
    captioner  name or folder of a BLIP-2 that captions the initial reconstructions; "" for training without text
    snr        whether the control module is told the SNR (False for the paper's ablation)
    rates, snr_range_db, channel  as in CodecRecipe
    lr         learning rate of AdamW, constant
    gradient_checkpointing  compute activations again in the backward pass, to save memory
    """

    kind = "control"
    nested = {"channel": ChannelRecipe}

    stable_diffusion: str
    config: str = ""
    codec: str = "lite"
    captioner: str = ""
    snr: bool = True
    rates: list[str] = field(default_factory=list)
    snr_range_db: list[float] = field(default_factory=list)
    channel: ChannelRecipe = field(default_factory=ChannelRecipe)
    lr: float = 1e-4
    gradient_checkpointing: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.check("stable_diffusion", bool(self.stable_diffusion), "a diffusers folder, or a single file")
        self.check_above_zero("lr")
        self.check_snr_range()


class ControlPath(nn.Module):
    """Control module and frozen UNet as one forward call, as DistributedDataParallel needs; the control module is what is
    trained.

    compile  whether torch.compile compiles both
    """

    def __init__(self, pipeline: DiffJSCCPipeline, compile: bool = False):
        super().__init__()
        # No module itself, so that the frozen networks are no children.
        self.pipeline, self.control = pipeline, pipeline.control
        if compile:
            pipeline.control.compile()
            pipeline.unet.compile()

    def forward(self, noised: Tensor, timesteps: Tensor, f_s: Tensor, snr_db: Tensor, text: Tensor) -> Tensor:
        return self.pipeline.predict(noised, timesteps, f_s, snr_db, text)


class ControlTrainer(Run):
    """Trains a control module; see `Run`. The model is the whole refiner."""

    def build(self) -> None:
        recipe: ControlRecipe = self.recipe
        self.codec = load_codec(recipe.codec, self.device, torch.float32)
        self.received = CodecPath(self.codec, recipe.compile)
        draw_conditions(self.codec, recipe.channel, Draws(0, [0]), recipe.rates, recipe.snr_range_db)
        recipe.channel.multipath()
        self.held_out_images = read_held_out(self.held_out, VALIDATION_IMAGES, self.unreadable)
        self.pipeline = load_stable_diffusion(recipe.stable_diffusion, recipe.config or None, snr=recipe.snr)
        for network in (self.pipeline.vae, self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.control):
            # Of files in half precision too: steps of 1e-4 would vanish in the weights of a half-precision control module.
            # diffusers' own `to` warns of modules to be kept in float32, though there are none.
            nn.Module.to(network, self.device, torch.float32)
        # A training shows a progress bar of its own.
        transformers_logging.disable_progress_bar()
        # Not a part of the pipeline, which is exported.
        self.captioner = load_captioner(recipe.captioner, self.device, default_dtype(self.device)) if recipe.captioner else None
        for name in ("vae", "unet", "text_encoder"):
            getattr(self.pipeline, name).requires_grad_(False).eval()
        path = ControlPath(self.pipeline, recipe.compile).train()
        if recipe.gradient_checkpointing:
            # The gradient goes through the UNet's decoder too.
            self.pipeline.control.enable_gradient_checkpointing()
            self.pipeline.unet.enable_gradient_checkpointing()
        self.path, self.control = path, path.control
        optimisers = with_peaks([torch.optim.AdamW(path.parameters(), lr=recipe.lr)])
        self.optimisers = [self.accelerator.prepare(optimiser) for optimiser in optimisers]
        self.network = self.accelerator.prepare(path)

    def parts(self) -> dict[str, Any]:
        return {"control": self.control, "optimiser": self.optimisers[0]}

    def schedule(self, step: int) -> float:
        return 1.0

    def loss(self, images: Tensor, indices: list[int], draws: Draws, factor: float) -> Tensor:
        recipe: ControlRecipe = self.recipe
        channels, state = draw_conditions(self.codec, recipe.channel, draws, recipe.rates, recipe.snr_range_db)
        with torch.no_grad(), self.accelerator.autocast():
            initial = self.received(images, channels, state, recipe.channel, draws).clamp(0, 1)
        timesteps = draws.integers(self.pipeline.scheduler.config.num_train_timesteps)
        return self._error(self.network, images, initial, state.snr_db.to(self.device), timesteps.to(self.device), draws)

    def _error(
        self, network: nn.Module, images: Tensor, initial: Tensor, snr_db: Tensor, timesteps: Tensor, draws: Draws
    ) -> Tensor:
        """|ε − ε̂|²; a ControlPath, images and initial (N,3,H,W), snr_db and timesteps (N,)."""
        with self.accelerator.autocast():
            with torch.no_grad():
                z, f_s, text = self.pipeline.encode(images), self.pipeline.encode(initial), self._text(initial)
            noise = draws.normal(*z.shape[1:]).to(z)
            noised = self.pipeline.scheduler.add_noise(z, noise, timesteps)
            predicted = network(noised, timesteps, f_s, snr_db, text)
        return mse_loss(predicted.float(), noise.float())

    def _text(self, initial: Tensor) -> Tensor:
        return self.pipeline.encode_prompt(self._captions(initial))[0]

    def _captions(self, initial: Tensor) -> list[str]:
        if self.captioner is None:
            return [""] * len(initial)
        captioner, processor = self.captioner
        return caption(captioner, processor, initial)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on held-out images, at the codec's lowest rate and 1 dB."""
        losses = []
        for number, image in enumerate(self.held_out_images):
            image = image.to(self.device)
            initial = self._initial(image, number)
            image, initial = self.pipeline.pad(image), self.pipeline.pad(initial)
            for timestep in VALIDATION_TIMESTEPS:
                timesteps, snr_db = torch.tensor([timestep]), torch.tensor([VALIDATION_SNR_DB])
                draws = Draws(0, [number], timestep)
                # Not through the prepared network: other processes do not measure.
                error = self._error(self.path, image, initial, snr_db.to(self.device), timesteps.to(self.device), draws)
                losses.append(error.item())
        return {"held-out loss": sum(losses) / len(losses)}

    def _initial(self, image: Tensor, number: int) -> Tensor:
        with self.accelerator.autocast():
            return receive(self.codec, image, rate_channels(self.codec.rates[0]), VALIDATION_SNR_DB, Draws(0, [number]))

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        rows = []
        for number, image in enumerate(self.held_out_images[:SHOWN]):
            image = image.to(self.device)[..., :SHOWN_SIDE, :SHOWN_SIDE]
            initial = self._initial(image, number)
            random = torch.Generator().manual_seed(number)
            captions = self._captions(initial)
            refined = self.pipeline(
                initial, VALIDATION_SNR_DB, captions, num_inference_steps=SHOWN_STEPS, generator=random, output_type="pt"
            ).images
            rows.append(torch.cat((image, initial, refined.to(image)), dim=3)[0])
        return {"original, initial and refined": stacked(rows)}

    def export(self, folder: Path) -> None:
        save_pipeline(self.pipeline, folder)
