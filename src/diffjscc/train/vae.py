# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a small autoencoder for images: the latent space in which a small refiner works.

The loss is L1 on pixels; a little noise on the latent keeps the space smooth, in place of the KL term of a variational
autoencoder. What an image loses in it must be far less than what the channel took: held out, above 35 dB at half the
resolution and 8 channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from ..metrics import psnr
from .average import RunningAverage
from .dataset import read_held_out
from .draws import Draws
from .grids import stacked
from .optimisers import build_optimisers, linear
from .recipes import Recipe
from .run import Run

#: Held-out images measured, those shown to trackers, and pixels a side of these.
VALIDATION_IMAGES, SHOWN, SHOWN_SIDE = 8, 4, 256


@dataclass(frozen=True, kw_only=True)
class VaeRecipe(Recipe):
    """What the training of a small autoencoder computes.

    channels        of the latent
    width           of every convolution
    encoder_blocks  residual blocks at full and half the resolution, …
    decoder_blocks  residual blocks at …, half and full resolution
    noise           standard deviation of the noise on the latent, in units of the latent's own
    lr, muon_lr     peak learning rates of AdamW and Muon
    decay           share of the steps, at the end, over which they fall to zero
    ema             decay of the running average of the weights that is exported
    """

    kind = "vae"

    channels: int = 8
    width: int = 32
    encoder_blocks: list[int] = field(default_factory=lambda: [1, 1])
    decoder_blocks: list[int] = field(default_factory=lambda: [2, 1])
    noise: float = 0.05
    lr: float = 2e-3
    muon_lr: float = 0.01
    decay: float = 0.8
    ema: float = 0.99

    def __post_init__(self):
        super().__post_init__()
        self.check_above_zero("channels", "width", "lr", "muon_lr")
        for name in ("encoder_blocks", "decoder_blocks"):
            self.check(name, len(getattr(self, name)) > 0 and min(getattr(self, name)) > 0, "numbers above 0, one a resolution")
        self.check("decoder_blocks", len(self.encoder_blocks) == len(self.decoder_blocks), "as many as encoder_blocks")
        self.check("noise", self.noise >= 0, "at least 0")
        self.check("precision", self.precision != "fp16", "bf16 or no: Muon knows no fp16")
        self.check_share("decay")
        self.check_average()


def build_vae(recipe: VaeRecipe) -> AutoencoderTiny:
    """An AutoencoderTiny: convolutions, rectifiers and bilinear upsampling, no normalisation over the image.

    Upsampling by the nearest neighbour, its default, leaves squares in what a refiner painted.
    """
    stages = len(recipe.encoder_blocks)
    return AutoencoderTiny(
        latent_channels=recipe.channels,
        encoder_block_out_channels=(recipe.width,) * stages,
        decoder_block_out_channels=(recipe.width,) * stages,
        num_encoder_blocks=tuple(recipe.encoder_blocks),
        num_decoder_blocks=tuple(recipe.decoder_blocks),
        upsample_fn="bilinear",
    )


class NoisyAutoencoder(nn.Module):
    """Images encoded, and decoded with noise on the latent; one forward call, as DistributedDataParallel needs.

    noise    its standard deviation, in units of the latent's own
    compile  whether torch.compile compiles encoder and decoder
    """

    def __init__(self, vae: AutoencoderTiny, noise: float, compile: bool = False):
        super().__init__()
        self.vae, self.noise = vae, noise
        if compile:
            vae.encoder.compile()
            vae.decoder.compile()

    def forward(self, pixels: Tensor, draws: Draws) -> Tensor:
        """(N,3,H,W) in [−1,1] → the same."""
        latent = self.vae.encoder(pixels)
        noise = draws.normal(*latent.shape[1:]).to(latent)
        return self.vae.decoder(latent + self.noise * latent.detach().std() * noise)


class VaeTrainer(Run):
    """Trains an AutoencoderTiny; see `Run`."""

    def build(self) -> None:
        recipe: VaeRecipe = self.recipe
        self.held_out_images = read_held_out(self.held_out, VALIDATION_IMAGES, self.unreadable)
        self.vae = build_vae(recipe).to(self.device)
        self.average = RunningAverage(self.vae, recipe.ema)
        optimisers = build_optimisers(self.vae, "muon", recipe.lr, recipe.muon_lr)
        self.optimisers = [self.accelerator.prepare(optimiser) for optimiser in optimisers]
        self.network = self.accelerator.prepare(NoisyAutoencoder(self.vae, recipe.noise, recipe.compile))

    def parts(self) -> dict[str, Any]:
        optimisers = {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        return {"vae": self.vae, "average": self.average, **optimisers}

    def schedule(self, step: int) -> float:
        return linear(step, self.recipe.steps, self.recipe.decay, 100)

    def loss(self, images: Tensor, indices: list[int], draws: Draws, factor: float) -> Tensor:
        pixels = images * 2 - 1
        with self.accelerator.autocast():
            decoded = self.network(pixels, draws)
        return l1_loss(decoded.float(), pixels)

    def after_step(self) -> None:
        self.average.update()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        with self.average:
            decibels = [psnr(self._decoded(x), x) for x in (image.to(self.device) for image in self.held_out_images)]
        return {"PSNR": sum(decibels) / len(decibels)}

    def _decoded(self, image: Tensor) -> Tensor:
        with self.accelerator.autocast():
            decoded = self.vae.decoder(self.vae.encoder(image * 2 - 1))
        return decoded.float().clamp(-1, 1) / 2 + 0.5

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        images = [image[..., :SHOWN_SIDE, :SHOWN_SIDE].to(self.device) for image in self.held_out_images[:SHOWN]]
        with self.average:
            return {"original and decoded": stacked([torch.cat((x, self._decoded(x)), 3)[0] for x in images])}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """A diffusers folder; its scaling_factor makes latents of training images have unit deviation."""
        with self.average:
            images, _ = self.crops(range(self.recipe.batch))
            latents = self.vae.encoder(images.to(self.device) * 2 - 1)
            self.vae.register_to_config(scaling_factor=1 / latents.std().item())
            self.vae.save_pretrained(folder)
