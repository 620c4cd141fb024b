# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a small refiner: a one-step generator in the shape of DiffJSCC.

    initial ─► VAE encoder ─► f_s ─┬─► + noise ─► z_1 ─► UNet ─► v ─► z_0 = z_1 − v ─► VAE decoder ─► refined
                                   └─► control module (with the SNR) ──┘

With no large prior to protect, UNet, control module and VAE decoder are trained as one network; the codec and the VAE's
encoder stay as they are. The path from z_1, the noised latent of the initial reconstruction, to z_0 is a rectified flow
walked in a single step. The loss is on the image at its end: L1, which ties it to the photograph; differences of local
statistics (see `texture`), which are the same for every plausible image, so that detail need not be in the right place to
be painted; and, once those have settled, a critic (see `critic`), which sees what statistics miss. Such a second stage is a run
of its own: start_from the first, with adversarial above 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, l1_loss

from ..errors import one_line
from ..hub import load_codec, load_refiner
from ..metrics import psnr
from ..refine.control import ControlModule
from ..refine.loading import save_pipeline
from ..refine.pipeline import DiffJSCCPipeline
from ..refine.unet import SmoothUNet
from ..symbols import BLOCK, rate_channels
from .average import RunningAverage
from .channels import ChannelRecipe
from .codec_path import CodecPath, draw_conditions, receive
from .critic import Adversary
from .dataset import read_held_out
from .draws import Draws
from .grids import stacked
from .optimisers import build_optimisers, linear, short_memory
from .recipes import Recipe
from .run import Run
from .texture import feature_loss, flatness, lattice_loss, pooled_texture_loss, quiet_loss, spectrum_loss, texture_loss

#: Held-out images measured, at the codec's lowest rate and this SNR in dB.
VALIDATION_IMAGES, VALIDATION_SNR_DB = 8, 1.0

#: Held-out images shown to trackers, and pixels a side of these.
SHOWN, SHOWN_SIDE = 4, 256

#: Groups of the UNet's normalisation, over which its channels are divided.
GROUPS = 32

#: L1 of an initial reconstruction at a low rate, of 1.
TYPICAL_L1 = 0.05


#: Names of a recipe's weights of losses, and of others that are at least 0.
WEIGHTS = (
    *("fidelity", "fidelity_by_rate", "coarse", "flat", "quiet"),
    *("texture", "pooled", "features", "spectrum", "lattice", "adversarial", "start_noise"),
)


@dataclass(frozen=True, kw_only=True)
class RefinerRecipe(Recipe):
    """What the training of a small refiner computes.

    vae          folder of the trained autoencoder; not needed with start_from
    codec        name or folder of the frozen codec
    widths       of the UNet's levels, at the latent's resolution, half of it, a quarter, …
    layers       residual blocks a level
    start_noise  standard deviation of the noise on z_1, in units of the latent's own
    strength     how far the refiner goes by default, above 0 and at most 1
    fidelity     weight of `fidelity_loss` at the codec's lowest rate, …
    fidelity_by_rate  … which grows with the rate to this power: the more was received, the less is to be repainted
    texture      weight of `texture_loss`
    spectrum     weight of `spectrum_loss`
    lattice      weight of `lattice_loss`
    pooled       weight of `pooled_texture_loss`, over the images of each rate
    features     weight of `feature_loss`
    coarse       weight of L1 at a quarter of the resolution, which ties shapes and colours and leaves detail free
    flat         L1 counts 1 + ``flat`` times as much where the photograph is flat, and the critic is not heard there
    quiet        weight of `quiet_loss`
    adversarial  weight of the critic's opinion; 0 for no critic, and Muon in place of AdamW
    critic_lr    peak learning rate of the critic
    rates, snr_range_db  as in CodecRecipe
    channel      between codec and refiner: see `channels.ChannelRecipe`
    lr, muon_lr  peak learning rates of AdamW and Muon
    decay        share of the steps, at the end, over which they fall to zero
    ema          decay of the running average of the weights that is exported
    start_from   name or folder of the refiner whose weights to begin with; "" for new ones
    """

    kind = "refiner"
    nested = {"channel": ChannelRecipe}

    vae: str = ""
    codec: str = "lite"
    widths: list[int] = field(default_factory=lambda: [64, 128, 160, 160])
    layers: int = 1
    start_noise: float = 0.05
    strength: float = 1.0
    fidelity: float = 1.0
    fidelity_by_rate: float = 0.0
    texture: float = 3.0
    pooled: float = 0.0
    features: float = 0.0
    coarse: float = 2.0
    flat: float = 0.0
    quiet: float = 0.0
    spectrum: float = 10.0
    lattice: float = 2.0
    adversarial: float = 0.0
    critic_lr: float = 4e-4
    rates: list[str] = field(default_factory=list)
    snr_range_db: list[float] = field(default_factory=lambda: [-5.0, 20.0])
    channel: ChannelRecipe = field(default_factory=lambda: ChannelRecipe(faded=0.075, erased=0.075))
    lr: float = 5e-4
    muon_lr: float = 0.004
    decay: float = 0.5
    ema: float = 0.998
    start_from: str = ""

    def __post_init__(self):
        super().__post_init__()
        self.check("vae", bool(self.vae or self.start_from), "the model folder of a run of vae-mini, unless start_from is given")
        self.check("widths", len(self.widths) > 0 and all(w > 0 and w % GROUPS == 0 for w in self.widths), f"multiples of {GROUPS}")
        self.check_above_zero("layers", "lr", "muon_lr", "critic_lr")
        self.check("strength", 0 < self.strength <= 1, "above 0 and at most 1")
        for name in WEIGHTS:
            self.check(name, getattr(self, name) >= 0, "at least 0")
        self.check("precision", self.precision != "fp16" or self.adversarial > 0, "bf16 or no: Muon knows no fp16")
        self.check_share("decay")
        self.check_average()
        self.check_snr_range()


def build_refiner(recipe: RefinerRecipe) -> DiffJSCCPipeline:
    """Networks of the recipe's size with new weights, around its VAE; it refines nothing yet: v = 0.

    Raises ValueError where there is no VAE.
    """
    if not (Path(recipe.vae) / "config.json").is_file():
        raise ValueError(f"vae = {recipe.vae!r}: no autoencoder there: give the model folder of a run of vae-mini")
    try:
        vae = AutoencoderTiny.from_pretrained(recipe.vae, torch_dtype=torch.float32)
    except Exception as error:
        # diffusers raises what it likes for files that are damaged, or of something else.
        raise ValueError(f"vae = {recipe.vae!r}: cannot be loaded as an AutoencoderTiny ({one_line(error)})") from None
    channels, levels = vae.config.latent_channels, len(recipe.widths)
    unet = SmoothUNet(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * levels,
        block_out_channels=tuple(recipe.widths),
        layers_per_block=recipe.layers,
        norm_num_groups=GROUPS,
        cross_attention_dim=8,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    control = ControlModule.from_unet(unet, defaults=flow_defaults(recipe))
    # There is no large prior to protect, so that the condition may act from the first step.
    control.controlnet_cond_embedding.reset_parameters()
    return DiffJSCCPipeline(vae, unet, control, FlowMatchEulerDiscreteScheduler())


def flow_defaults(recipe: RefinerRecipe) -> dict[str, Any]:
    """What a pipeline of this recipe uses where a call does not say."""
    return {"num_inference_steps": 1, "strength": recipe.strength, "colour_fix": "none", "start_noise": recipe.start_noise}


def refine_in_one_step(pipeline: DiffJSCCPipeline, initial: Tensor, snr_db: Tensor, draws: Draws) -> Tensor:
    """What a one-step pipeline computes, differentiably: initial (N,3,H,W), snr_db (N,) → refined (N,3,H,W)."""
    with torch.no_grad():
        f_s = pipeline.encode(initial).float()
    z = f_s + pipeline.defaults["start_noise"] * draws.normal(*f_s.shape[1:]).to(f_s)
    text = z.new_zeros(len(z), 1, pipeline.unet.config.cross_attention_dim)
    start = torch.tensor(float(pipeline.scheduler.config.num_train_timesteps), device=z.device)
    return pipeline.decode(z - pipeline.predict(z, start, f_s, snr_db, text)).float()


def fidelity_loss(refined: Tensor, images: Tensor, initial: Tensor, weight: Tensor) -> Tensor:
    """L1 over that of the initial reconstruction, so that a decibel given up costs the same at every rate and SNR: (N,).

    All (N,3,H,W); weight (N,1,H,W) of each place. In units of a typical initial reconstruction's L1.
    """
    after, before = ((weight * (x - images).abs()).mean((1, 2, 3)) for x in (refined, initial))
    return TYPICAL_L1 * after / (before + TYPICAL_L1 / 4)


class RefinerPath(nn.Module):
    """A one-step pipeline as one forward call, as DistributedDataParallel needs; its children are what is trained.

    compile  whether torch.compile compiles UNet, control module and decoder
    """

    def __init__(self, pipeline: DiffJSCCPipeline, compile: bool = False):
        super().__init__()
        self.pipeline = pipeline
        self.unet, self.control, self.decoder = pipeline.unet, pipeline.control, pipeline.vae.decoder
        if compile:
            for network in self.children():
                network.compile()

    def forward(self, initial: Tensor, snr_db: Tensor, draws: Draws) -> Tensor:
        return refine_in_one_step(self.pipeline, initial, snr_db, draws)


class RefinerTrainer(Run):
    """Trains a one-step refiner; see `Run`."""

    margin = BLOCK

    def build(self) -> None:
        recipe: RefinerRecipe = self.recipe
        self.codec = load_codec(recipe.codec, self.device, torch.float32)
        self.received = CodecPath(self.codec, recipe.compile)
        draw_conditions(self.codec, recipe.channel, Draws(0, [0]), recipe.rates, recipe.snr_range_db)
        recipe.channel.multipath()
        self.held_out_images = read_held_out(self.held_out, VALIDATION_IMAGES, self.unreadable)
        self.pipeline = load_refiner(recipe.start_from, dtype=torch.float32) if recipe.start_from else build_refiner(recipe)
        self.pipeline.control.register_to_config(defaults=flow_defaults(recipe))
        self.pipeline.to(self.device)
        self.pipeline.vae.encoder.requires_grad_(False)
        path = RefinerPath(self.pipeline, recipe.compile)
        # Muon wants contiguous kernels.
        path.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        path.requires_grad_(True).train()
        self.generator = path
        self.average = RunningAverage(path, recipe.ema)
        if recipe.adversarial:
            optimisers = [short_memory(path, recipe.lr)]
        else:
            optimisers = build_optimisers(path, "muon", recipe.lr, recipe.muon_lr, narrowest=64)
        self.optimisers = [self.accelerator.prepare(optimiser) for optimiser in optimisers]
        self.network = self.accelerator.prepare(path)
        self.adversary = Adversary(self.accelerator, recipe.critic_lr) if recipe.adversarial else None

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"generator": self.generator, "average": self.average}
        parts |= {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        return parts | (self.adversary.parts() if self.adversary else {})

    def prepared(self) -> list[nn.Module]:
        return [self.network, *([self.adversary.prepared] if self.adversary else [])]

    def schedule(self, step: int) -> float:
        return linear(step, self.recipe.steps, self.recipe.decay, 100)

    def loss(self, images: Tensor, indices: list[int], draws: Draws, factor: float) -> Tensor:
        recipe: RefinerRecipe = self.recipe
        images, initial, snr_db, channels = self._receive(images, draws)
        with self.accelerator.autocast():
            refined = self.network(initial, snr_db, draws)
        flat = flatness(images)
        weight = recipe.fidelity * (channels / rate_channels(self.codec.rates[0])) ** recipe.fidelity_by_rate
        loss = (weight.to(refined) * fidelity_loss(refined, images, initial, 1 + recipe.flat * flat)).mean()
        loss = loss + recipe.coarse * l1_loss(avg_pool2d(refined, 4), avg_pool2d(images, 4))
        loss = loss + recipe.texture * texture_loss(refined, images, draws.shared)
        loss = loss + recipe.spectrum * spectrum_loss(refined, images) + recipe.lattice * lattice_loss(refined)
        if recipe.pooled:
            for rate in channels.unique():
                same = channels == rate
                loss = loss + recipe.pooled * same.float().mean() * pooled_texture_loss(refined[same], images[same], draws.shared)
        if recipe.quiet:
            loss = loss + recipe.quiet * quiet_loss(refined, images, flat)
        if recipe.features:
            loss = loss + recipe.features * feature_loss(refined, images, draws.shared)
        if self.adversary is not None:
            where = 1 - flat if recipe.flat else None
            loss = loss + recipe.adversarial * self.adversary.loss(images, refined, self.step, factor, where)
        return loss

    def after_step(self) -> None:
        self.average.update()

    @torch.no_grad()
    def _receive(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A window of the images, the same of what the codec makes of them, the SNRs, and the numbers of latent channels sent.

        The window lies anywhere in the codec's blocks, so that the generator's own lattice never lines up with theirs.
        """
        recipe: RefinerRecipe = self.recipe
        channels, state = draw_conditions(self.codec, recipe.channel, draws, recipe.rates, recipe.snr_range_db)
        with self.accelerator.autocast():
            initial = self.received(images, channels, state, recipe.channel, draws)
        top, left = torch.randint(BLOCK, (2,), generator=draws.shared).tolist()
        window = (..., slice(top, top + recipe.crop), slice(left, left + recipe.crop))
        return images[window], initial.clamp(0, 1)[window], state.snr_db.to(self.device), channels

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR before and after, dB, and how much of the originals' finest detail there is before and after."""
        scores = []
        with self.average:
            for image, initial, refined in self._held_out():
                both = (initial, refined)
                scores.append([*(psnr(p, image) for p in both), *(_detail(p) / _detail(image) for p in both)])
        names = ("PSNR initial", "refined", "detail initial", "refined detail")
        return {name: sum(column) / len(scores) for name, column in zip(names, zip(*scores))}

    def _held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(original, initial, refined) of held-out images, each (1,3,H,W)."""
        channels, snr_db = rate_channels(self.codec.rates[0]), torch.tensor([VALIDATION_SNR_DB], device=self.device)
        for number, image in enumerate(self.held_out_images):
            image, draws = image.to(self.device), Draws(0, [number])
            with self.accelerator.autocast():
                initial = receive(self.codec, image, channels, VALIDATION_SNR_DB, draws)
                padded = self.pipeline.pad(initial)
                refined = refine_in_one_step(self.pipeline, padded, snr_db, draws).clamp(0, 1)
            yield image, initial, refined[..., : image.shape[2], : image.shape[3]]

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        with self.average:
            rows = [
                torch.cat([x[..., :SHOWN_SIDE, :SHOWN_SIDE] for x in images], 3)[0] for images in islice(self._held_out(), SHOWN)
            ]
        return {"original, initial and refined": stacked(rows)}

    def export(self, folder: Path) -> None:
        """A diffusers folder, float16."""
        with self.average:
            save_pipeline(self.pipeline, folder)


def _detail(image: Tensor) -> float:
    """Standard deviation of what a halved image cannot hold."""
    coarse = interpolate(avg_pool2d(image, 2), scale_factor=2, mode="bilinear")
    return (image - coarse).std().item()
