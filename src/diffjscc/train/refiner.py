# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a small refiner: a one-step generator in the shape of DiffJSCC.

    initial ─► VAE encoder ─► f_s ─┬─► + noise ─► z_1 ─► UNet ─► v ─► z_0 = z_1 − v ─► VAE decoder ─► refined
                                   └─► control module (with the SNR) ──┘

With no large prior to protect, UNet, control module and VAE decoder are trained as one network; the codec and the VAE's
encoder stay as they are. The path from z_1, the noised latent of the initial reconstruction, to z_0 is a rectified flow
walked in a single step. The loss is on the image at its end: L1, which ties it to the photograph; differences of local
statistics (see `texture`), which are the same for every plausible image, so that detail need not be in the right place to
be painted; and, once those have settled, a critic (see `critic`), which sees what statistics miss. Such a second stage is a run
of its own: --start-from the first, with --adversarial.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, l1_loss

from ..hub import load_codec, load_refiner
from ..metrics import psnr
from ..refine.control import ControlModule
from ..refine.loading import save_pipeline
from ..refine.pipeline import DiffJSCCPipeline
from ..refine.unet import SmoothUNet
from ..symbols import BLOCK, rate_channels
from .codec import CodecRecipe, draw_conditions, receive, reconstruct
from .critic import PatchCritic, critic_loss, generator_loss
from .images import RandomCrops, split
from .optimisers import build_optimisers, short_memory, take_step
from .run import Run, RunningAverage, warm_up_then_fall, whole_blocks
from .texture import lattice_loss, spectrum_loss, texture_loss

#: Held-out images measured at each checkpoint, at the codec's lowest rate and this SNR in dB.
VALIDATION_IMAGES = 8
VALIDATION_SNR_DB = 1.0

#: Steps in which a new critic is given its say.
CRITIC_STEPS = 200


@dataclass(frozen=True)
class RefinerRecipe:
    """Everything that decides what a training run computes.

    vae          folder of the trained autoencoder; not needed with start_from
    codec        name or folder of the frozen codec
    widths       of the UNet's levels, at the latent's resolution, half of it, a quarter, …
    layers       residual blocks a level
    start_noise  standard deviation of the noise on z_1, in units of the latent's own
    texture      weight of `texture_loss`
    spectrum     weight of `spectrum_loss`
    lattice      weight of `lattice_loss`
    coarse       weight of L1 at a quarter of the resolution, which ties shapes and colours and leaves detail free
    adversarial  weight of the critic's opinion, which grows to it over the first `CRITIC_STEPS`; 0 for no critic, and Muon
    critic_lr    peak learning rate of the critic
    The others as in CodecRecipe.
    """

    vae: str = ""
    codec: str = "lite"
    widths: tuple[int, ...] = (64, 128, 160, 160)
    layers: int = 1
    start_noise: float = 0.05
    texture: float = 3.0
    coarse: float = 2.0
    spectrum: float = 10.0
    lattice: float = 2.0
    adversarial: float = 0.0
    critic_lr: float = 4e-4
    rates: list[str] = field(default_factory=list)
    snr_range_db: list[float] = field(default_factory=lambda: [-5.0, 20.0])
    steps: int = 6000
    batch: int = 8
    crop: int = 128
    lr: float = 5e-4
    muon_lr: float = 0.004
    decay: float = 0.5
    ema: float = 0.998
    seed: int = 0
    start_from: str = ""


def build_refiner(recipe: RefinerRecipe) -> DiffJSCCPipeline:
    """Networks of the recipe's size with new weights, around its VAE; it refines nothing yet: v = 0."""
    if not (Path(recipe.vae) / "config.json").is_file():
        raise ValueError(f"vae = {recipe.vae!r}: no autoencoder there: give the model folder of `diffjscc train vae`")
    vae = AutoencoderTiny.from_pretrained(recipe.vae)
    channels, levels = vae.config.latent_channels, len(recipe.widths)
    unet = SmoothUNet(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * levels,
        block_out_channels=recipe.widths,
        layers_per_block=recipe.layers,
        cross_attention_dim=8,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    control = ControlModule.from_unet(unet)
    # Nothing is to be protected here, so that the condition may speak from the first step.
    control.controlnet_cond_embedding.reset_parameters()
    # A little less than all of it: the last share costs the most and is seen the least.
    defaults = {"sampler": "flow", "steps": 1, "colour_fix": "none", "start_noise": recipe.start_noise, "strength": 0.85}
    return DiffJSCCPipeline(vae, unet, control, FlowMatchEulerDiscreteScheduler(), defaults=defaults)


def refine_in_one_step(pipeline: DiffJSCCPipeline, initial: Tensor, snr_db: Tensor, random: torch.Generator) -> Tensor:
    """What a one-step pipeline computes, differentiably: initial (N,3,H,W), snr_db (N,) → refined (N,3,H,W)."""
    with torch.no_grad():
        f_s = pipeline.encode(initial).float()
    z = f_s + pipeline.config.defaults["start_noise"] * torch.randn(f_s.shape, generator=random).to(f_s)
    text = z.new_zeros(len(z), 1, pipeline.unet.config.cross_attention_dim)
    start = torch.tensor(float(pipeline.scheduler.config.num_train_timesteps), device=z.device)
    return pipeline.decode(z - pipeline.predict(z, start, f_s, snr_db, text)).float()


class RefinerTrainer(Run):
    """Trains a one-step refiner; see `Run` for the folder that it keeps."""

    def __init__(
        self, data: str | Path, out: str | Path, recipe: RefinerRecipe, device: str = "cpu", checkpoint_seconds: float = 50.0
    ):
        """Raises ValueError where ``data`` has no images, ``out`` holds another run, or a model is not found."""
        super().__init__(out, {**asdict(recipe), "what": "refiner"}, recipe.steps, checkpoint_seconds)
        self.recipe, self.device = recipe, torch.device(device)
        training, held_out = split(data)
        self.crops = RandomCrops(training, recipe.crop + BLOCK, recipe.batch, recipe.seed)
        self.codec = load_codec(recipe.codec, device)
        self.conditions = CodecRecipe(batch=recipe.batch, rates=recipe.rates, snr_range_db=recipe.snr_range_db, mismatch=0)
        self.held_out = [whole_blocks(path) for path in held_out[:VALIDATION_IMAGES]]
        torch.manual_seed(recipe.seed)
        self.pipeline = load_refiner(recipe.start_from, dtype=torch.float32) if recipe.start_from else build_refiner(recipe)
        self.pipeline.to(self.device)
        self.pipeline.vae.encoder.requires_grad_(False)
        self.generator = nn.ModuleDict(
            {"unet": self.pipeline.unet, "control": self.pipeline.control, "decoder": self.pipeline.vae.decoder}
        )
        # Muon wants contiguous kernels. torch's stubs of Module.to lack the keyword.
        self.generator.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.generator.requires_grad_(True).train()
        self.average = RunningAverage(self.generator, recipe.ema)
        self.critic = PatchCritic().to(self.device)
        self.critic_optimiser = short_memory(self.critic, recipe.critic_lr)
        if recipe.adversarial:
            self.optimisers = [short_memory(self.generator, recipe.lr)]
        else:
            self.optimisers = build_optimisers(self.generator, recipe.lr, recipe.muon_lr, narrowest=64)
        self.resume()

    def parts(self):
        optimisers = {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        critic = {"critic": self.critic, "critic_optimiser": self.critic_optimiser} if self.recipe.adversarial else {}
        return {"generator": self.generator, "average": self.average, **optimisers, **critic}

    def train_step(self) -> float:
        images = self.crops(self.step).to(self.device, memory_format=torch.channels_last)
        random = torch.Generator().manual_seed((self.recipe.seed << 32) + self.step)
        images, initial, snr_db = self._receive(images, random)
        factor = warm_up_then_fall(self.step, self.recipe.steps, self.recipe.decay)
        with torch.autocast(self.device.type, torch.bfloat16):
            refined = refine_in_one_step(self.pipeline, initial, snr_db, random)
        recipe = self.recipe
        loss = l1_loss(refined, images) + recipe.coarse * l1_loss(avg_pool2d(refined, 4), avg_pool2d(images, 4))
        loss = loss + recipe.texture * texture_loss(refined, images, random)
        loss = loss + recipe.spectrum * spectrum_loss(refined, images) + recipe.lattice * lattice_loss(refined)
        if recipe.adversarial:
            self._train_critic(images, refined.detach(), factor)
            loss = loss + recipe.adversarial * min(1.0, self.step / CRITIC_STEPS) * self._judge(images, refined)
        self.generator.zero_grad()
        loss.backward()
        if take_step(self.optimisers, self.generator, factor):
            self.average.update()
        return loss.item()

    def _judge(self, images: Tensor, refined: Tensor) -> Tensor:
        """The generator's loss before the critic, which learns nothing from it."""
        self.critic.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16):
            with torch.no_grad():
                real = self.critic(images)
            loss = generator_loss(real, self.critic(refined))
        self.critic.requires_grad_(True)
        return loss

    def _train_critic(self, images: Tensor, refined: Tensor, factor: float) -> None:
        with torch.autocast(self.device.type, torch.bfloat16):
            real, fake = zip(*(scale.chunk(2) for scale in self.critic(torch.cat((images, refined)))))
            loss = critic_loss(real, fake)
        self.critic.zero_grad()
        loss.backward()
        take_step([self.critic_optimiser], self.critic, factor)

    @torch.no_grad()
    def _receive(self, images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A window of the images, the same of what the codec makes of them, and the SNR.

        The window lies anywhere in the codec's blocks, so that the generator's own lattice never lines up with theirs.
        """
        channels, state = draw_conditions(self.codec, self.conditions, random)
        with torch.autocast(self.device.type, torch.bfloat16):
            initial = reconstruct(self.codec, images, channels, state, self.conditions, random)
        top, left = torch.randint(BLOCK, (2,), generator=random).tolist()
        window = (..., slice(top, top + self.recipe.crop), slice(left, left + self.recipe.crop))
        return images[window], initial.clamp(0, 1)[window], state.snr_db.to(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR before and after, dB, and how much of the originals' finest detail there is before and after."""
        scores = []
        channels, snr_db = rate_channels(self.codec.rates[0]), torch.tensor([VALIDATION_SNR_DB], device=self.device)
        random = torch.Generator().manual_seed(0)
        with self.average:
            for image in self.held_out:
                image = image.to(self.device)
                initial = receive(self.codec, image, channels, VALIDATION_SNR_DB, random)
                with torch.autocast(self.device.type, torch.bfloat16):
                    refined = refine_in_one_step(self.pipeline, initial, snr_db, random).clamp(0, 1)
                both = (initial, refined)
                scores.append([*(psnr(p, image) for p in both), *(_detail(p) / _detail(image) for p in both)])
        names = ("PSNR initial", "refined", "detail initial", "refined detail")
        return {name: sum(column) / len(scores) for name, column in zip(names, zip(*scores))}

    def export(self, folder: Path) -> None:
        """A diffusers folder, float16."""
        with self.average:
            save_pipeline(self.pipeline, folder)


def _detail(image: Tensor) -> float:
    """Standard deviation of what a halved image cannot hold."""
    coarse = interpolate(avg_pool2d(image, 2), scale_factor=2, mode="bilinear")
    return (image - coarse).std().item()
