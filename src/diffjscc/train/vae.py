# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a small autoencoder for images: the latent space in which a small refiner works.

The loss is L1 on pixels; a little noise on the latent keeps the space smooth, in place of the KL term of a variational
autoencoder. What an image loses in it must be far less than what the channel took: held out, above 35 dB at half the
resolution and 8 channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import l1_loss

from ..metrics import psnr
from .images import RandomCrops, split
from .optimisers import build_optimisers, take_step
from .run import Run, RunningAverage, warm_up_then_fall, whole_blocks

#: Held-out images measured at each checkpoint.
VALIDATION_IMAGES = 8


@dataclass(frozen=True)
class VaeRecipe:
    """Everything that decides what a training run computes.

    channels        of the latent
    width           of every convolution
    encoder_blocks  residual blocks at full and half the resolution, …
    decoder_blocks  residual blocks at …, half and full resolution
    noise           standard deviation of the noise on the latent, in units of the latent's own
    The others as in CodecRecipe.
    """

    channels: int = 8
    width: int = 32
    encoder_blocks: tuple[int, ...] = (1, 1)
    decoder_blocks: tuple[int, ...] = (2, 1)
    noise: float = 0.05
    steps: int = 900
    batch: int = 8
    crop: int = 128
    lr: float = 2e-3
    muon_lr: float = 0.01
    decay: float = 0.8
    ema: float = 0.99
    seed: int = 0


def build_vae(recipe: VaeRecipe) -> AutoencoderTiny:
    """An AutoencoderTiny: convolutions, rectifiers and bilinear upsampling, no normalisation over the image.

    Upsampling by the nearest neighbour, its default, leaves squares in what a refiner painted.
    """
    stages = len(recipe.encoder_blocks)
    return AutoencoderTiny(
        latent_channels=recipe.channels,
        encoder_block_out_channels=(recipe.width,) * stages,
        decoder_block_out_channels=(recipe.width,) * stages,
        num_encoder_blocks=recipe.encoder_blocks,
        num_decoder_blocks=recipe.decoder_blocks,
        upsample_fn="bilinear",
    )


class VaeTrainer(Run):
    """Trains an AutoencoderTiny; see `Run` for the folder that it keeps."""

    def __init__(self, data: str | Path, out: str | Path, recipe: VaeRecipe, device: str = "cpu", checkpoint_seconds: float = 50.0):
        """Raises ValueError where ``data`` has no images, or ``out`` holds a run of another recipe."""
        super().__init__(out, {**asdict(recipe), "what": "vae"}, recipe.steps, checkpoint_seconds)
        self.recipe, self.device = recipe, torch.device(device)
        training, held_out = split(data)
        self.crops = RandomCrops(training, recipe.crop, recipe.batch, recipe.seed)
        self.held_out = [whole_blocks(path) for path in held_out[:VALIDATION_IMAGES]]
        torch.manual_seed(recipe.seed)
        self.vae = build_vae(recipe).to(self.device)
        self.average = RunningAverage(self.vae, recipe.ema)
        self.optimisers = build_optimisers(self.vae, recipe.lr, recipe.muon_lr)
        self.resume()

    def parts(self):
        optimisers = {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        return {"vae": self.vae, "average": self.average, **optimisers}

    def train_step(self) -> float:
        images = self.crops(self.step).to(self.device, memory_format=torch.channels_last)
        random = torch.Generator().manual_seed((self.recipe.seed << 32) + self.step)
        with torch.autocast(self.device.type, torch.bfloat16):
            latent = self.vae.encoder(images * 2 - 1)
            noise = torch.randn(latent.shape, generator=random).to(self.device)
            decoded = self.vae.decoder(latent + self.recipe.noise * latent.detach().std() * noise)
        loss = l1_loss(decoded.float(), images * 2 - 1)
        self.vae.zero_grad()
        loss.backward()
        factor = warm_up_then_fall(self.step, self.recipe.steps, self.recipe.decay)
        if take_step(self.optimisers, self.vae, factor):
            self.average.update()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        with self.average:
            decibels = [self._psnr(image.to(self.device)) for image in self.held_out]
        return {"PSNR": sum(decibels) / len(decibels)}

    def _psnr(self, image: Tensor) -> float:
        with torch.autocast(self.device.type, torch.bfloat16):
            decoded = self.vae.decoder(self.vae.encoder(image * 2 - 1))
        return psnr(decoded.float().clamp(-1, 1) / 2 + 0.5, image)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """A diffusers folder; its scaling_factor makes latents of training images have unit deviation."""
        with self.average:
            latents = self.vae.encoder(self.crops(0).to(self.device) * 2 - 1)
            self.vae.register_to_config(scaling_factor=1 / latents.std().item())
            self.vae.save_pretrained(folder)
