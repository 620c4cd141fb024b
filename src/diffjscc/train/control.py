# SPDX-License-Identifier: GPL-3.0-or-later
"""Training the control module on a frozen Stable Diffusion, as in the paper (section III-C).

image ─► codec, channel at γ ─► initial ─► VAE ─► f_s ─┐
image ─► VAE ─► z_0 ─► noise at t ─► z_t ─────────────►│ control module ─► frozen UNet ─► ε̂      loss |ε − ε̂|²
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import mse_loss

from ..checkpoints import load_stable_diffusion
from ..hub import load_codec
from ..refine.captions import caption, load_captioner
from ..refine.loading import save_pipeline
from ..refine.pipeline import DiffJSCCPipeline
from ..symbols import rate_channels
from .codec import CodecRecipe, draw_conditions, receive, reconstruct
from .images import RandomCrops, split
from .run import Run, whole_blocks

#: Held-out images, and timesteps of each, on which the loss is measured at each checkpoint.
VALIDATION_IMAGES, VALIDATION_TIMESTEPS = 4, (100, 400, 700)


@dataclass(frozen=True)
class ControlRecipe:
    """Everything that decides what a training run computes; defaults are the paper's.

    stable_diffusion  diffusers folder, or single file, of Stable Diffusion 2.1-base
    config     LDM configuration of a single file; "" for Stable Diffusion 2.1-base's
    codec      name or folder of the frozen codec
    captioner  name or folder of a BLIP-2 that captions the initial reconstructions; "" for training without text
    snr        whether the control module is told the SNR (False for the paper's ablation)
    precision  "no", "bf16" or "fp16": what Accelerate's mixed precision computes in
    The others as in CodecRecipe.
    """

    stable_diffusion: str
    config: str = ""
    codec: str = "lite"
    captioner: str = ""
    snr: bool = True
    precision: str = "no"
    steps: int = 25_000
    batch: int = 16
    crop: int = 512
    lr: float = 1e-4
    seed: int = 0


class ControlTrainer(Run):
    """Trains a control module; see `Run` for the folder that it keeps. out/model is the whole refiner."""

    def __init__(
        self, data: str | Path, out: str | Path, recipe: ControlRecipe, device: str = "cpu", checkpoint_seconds: float = 1800.0
    ):
        """Raises ValueError where ``data`` has no images, ``out`` holds another run, or a model cannot be loaded."""
        super().__init__(out, {**asdict(recipe), "what": "control"}, recipe.steps, checkpoint_seconds)
        self.recipe = recipe
        self.accelerator = Accelerator(mixed_precision=recipe.precision, cpu=torch.device(device).type == "cpu")
        self.device = self.accelerator.device
        training, held_out = split(data)
        self.crops = RandomCrops(training, recipe.crop, recipe.batch, recipe.seed)
        self.held_out = [whole_blocks(path) for path in held_out[:VALIDATION_IMAGES]]
        self.codec = load_codec(recipe.codec, self.device, torch.float32)
        self.conditions = CodecRecipe(batch=recipe.batch, mismatch=0, uneven=0)
        torch.manual_seed(recipe.seed)
        self.pipeline = self._build()
        for name in ("vae", "unet", "text_encoder"):
            getattr(self.pipeline, name).requires_grad_(False).eval()
        self.control = self.pipeline.control.train()
        self.optimiser = torch.optim.AdamW(self.control.parameters(), lr=recipe.lr)
        self.control, self.optimiser = self.accelerator.prepare(self.control, self.optimiser)
        self.resume()

    def _build(self) -> DiffJSCCPipeline:
        pipeline = load_stable_diffusion(self.recipe.stable_diffusion, self.recipe.config or None, snr=self.recipe.snr)
        if self.recipe.captioner:
            captioner, processor = load_captioner(self.recipe.captioner)
            pipeline.register_modules(captioner=captioner, caption_processor=processor)
        return pipeline.to(self.device)

    def parts(self):
        return {"control": self.control, "optimiser": self.optimiser}

    def train_step(self) -> float:
        images = self.crops(self.step).to(self.device)
        random = torch.Generator().manual_seed((self.recipe.seed << 32) + self.step)
        channels, state = draw_conditions(self.codec, self.conditions, random)
        with torch.no_grad():
            initial = reconstruct(self.codec, images, channels, state, self.conditions, random).clamp(0, 1)
        timesteps = torch.randint(self.pipeline.scheduler.config.num_train_timesteps, (len(images),), generator=random)
        loss = self._loss(images, initial, state.snr_db.to(self.device), timesteps.to(self.device), random)
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        self.optimiser.step()
        return loss.item()

    def _loss(self, images: Tensor, initial: Tensor, snr_db: Tensor, timesteps: Tensor, random: torch.Generator) -> Tensor:
        """|ε − ε̂|², images and initial (N,3,H,W), snr_db and timesteps (N,)."""
        with torch.no_grad():
            z, f_s, text = self.pipeline.encode(images), self.pipeline.encode(initial), self._text(initial)
        noise = torch.randn(z.shape, generator=random).to(z)
        noised = self.pipeline.scheduler.add_noise(z, noise, timesteps)
        with self.accelerator.autocast():
            predicted = self.pipeline.predict(noised, timesteps, f_s, snr_db, text)
        return mse_loss(predicted.float(), noise)

    def _text(self, initial: Tensor) -> Tensor:
        prompts = [""] * len(initial)
        if self.pipeline.captioner is not None:
            prompts = caption(self.pipeline.captioner, self.pipeline.caption_processor, initial)
        return self.pipeline.encode_prompts(prompts)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on held-out images, at the codec's lowest rate and 1 dB."""
        random = torch.Generator().manual_seed(0)
        losses = []
        for image in self.held_out:
            image = image.to(self.device)
            initial = receive(self.codec, image, rate_channels(self.codec.rates[0]), 1.0, random)
            image, initial = self.pipeline.pad(image), self.pipeline.pad(initial)
            for timestep in VALIDATION_TIMESTEPS:
                timesteps = torch.tensor([timestep], device=self.device)
                losses.append(self._loss(image, initial, torch.tensor([1.0], device=self.device), timesteps, random).item())
        return {"held-out loss": sum(losses) / len(losses)}

    def export(self, folder: Path) -> None:
        save_pipeline(self.pipeline, folder)
