# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a codec: a plain loop that can be killed at any time and goes on from its last minute.

The loss is the mean of log(MSE + ε) over pictures, so that a decibel counts the same at every rate and SNR; a plain mean
of MSE is ruled by the noisiest pictures. Matrices and convolutions of the residual stages are trained by Muon (Jordan et
al., 2024; torch.optim.Muon), everything else by AdamW.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..channel import noise_variance
from ..codec import Codec, build_codec
from ..codec.codec import ChannelState, normalise_power
from ..hub import load_codec, save_codec
from ..images import read_image, to_tensor
from ..symbols import BLOCK, rate_channels
from .pictures import RandomCrops, split

#: Added to the MSE inside the logarithm: pictures better than about 35 dB are not polished further.
LOSS_FLOOR = 3e-4

#: Where held-out pictures are measured: which of the codec's rates, and the SNR in dB.
VALIDATION_POINTS = ((0, 1.0), (-1, 1.0), (-1, 13.0))

#: Held-out pictures measured at each checkpoint.
VALIDATION_PICTURES = 12


@dataclass(frozen=True)
class CodecRecipe:
    """Everything that decides what a training run computes.

    steps     optimiser steps in all
    batch     crops a step
    crop      side of a crop, pixels, a multiple of 16
    lr        AdamW's peak learning rate
    muon_lr   Muon's peak learning rate
    decay     share of the steps, at the end, over which the learning rates fall linearly to zero
    rates     rates to draw from, the same one several times to draw it more often; none: every rate that the codec has
    snr_range_db  SNRs to draw from, dB; none: the codec's range
    uneven    share of the pictures whose symbols meet unequal noise: erasures or fading
    mismatch  share of the pictures whose encoder assumed another SNR than the channel's
    ema       decay of the running average of the weights that is exported
    seed      of weights, crops, rates, SNRs and noise
    start_from  name or folder of the codec whose weights to begin with; "" for new ones
    """

    steps: int = 20_000
    batch: int = 16
    crop: int = 128
    lr: float = 1e-3
    muon_lr: float = 0.01
    decay: float = 0.4
    rates: list[str] = field(default_factory=list)
    snr_range_db: list[float] = field(default_factory=list)
    uneven: float = 0.15
    mismatch: float = 0.15
    ema: float = 0.999
    seed: int = 0
    start_from: str = ""

    def __post_init__(self):
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps = {self.steps}, batch = {self.batch}: both must be at least 1")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay = {self.decay}: must be above 0 and at most 1")
        if self.crop < 2 * BLOCK or self.crop % BLOCK:
            raise ValueError(f"crop = {self.crop}: must be a multiple of {BLOCK}, at least {2 * BLOCK}")

    def rate_of_learning(self, step: int) -> float:
        """Factor on the learning rates: a short warm-up, a plateau, a linear fall to zero."""
        return min(1.0, (step + 1) / 100, max(0.0, 1 - step / self.steps) / self.decay)


@dataclass(frozen=True)
class Progress:
    """What a caller is told after each step: ``psnr`` is the held-out PSNR by point, dB, as last measured."""

    step: int
    loss: float
    psnr: dict[str, float]


def draw_conditions(codec: Codec, recipe: CodecRecipe, random: torch.Generator) -> tuple[Tensor, ChannelState]:
    """Channels to send (N,) and the channel's state, at random."""
    low, high = recipe.snr_range_db or codec.snr_range_db
    count = recipe.batch
    snr_db = torch.empty(count).uniform_(low, high, generator=random)
    assumed = torch.empty(count).uniform_(low, high, generator=random)
    mistaken = torch.rand(count, generator=random) < recipe.mismatch
    table = torch.tensor([rate_channels(codec.check_rate(rate)) for rate in recipe.rates or codec.rates])
    channels = table[torch.randint(len(table), (count,), generator=random)]
    return channels, ChannelState.awgn(snr_db, torch.where(mistaken, assumed, snr_db))


def draw_noise_variance(state: ChannelState, like: Tensor, recipe: CodecRecipe, random: torch.Generator) -> Tensor:
    """σ² for every latent value: equal, or for some pictures faded (σ²/|h|², h ~ CN(0,1)) or with up to 0.3 erased (+inf)."""
    count = len(like)
    variance = noise_variance(state.snr_db)[:, None, None, None].expand(like.shape)
    kind = torch.rand(count, generator=random)[:, None, None, None]
    faded = variance / torch.empty(like.shape).exponential_(generator=random)
    lost = torch.rand(like.shape, generator=random) < 0.3 * torch.rand(count, generator=random)[:, None, None, None]
    variance = torch.where(kind < recipe.uneven / 2, faded, variance)
    return torch.where((kind > 1 - recipe.uneven / 2) & lost, torch.inf, variance)


def reconstruct(
    codec: Codec, images: Tensor, channels: Tensor, state: ChannelState, recipe: CodecRecipe, random: torch.Generator
) -> Tensor:
    """Pictures through encoder, noise and decoder, differentiably. images (N,3,H,W) → (N,3,H,W)."""
    device = images.device
    assumed = ChannelState.awgn(state.tx_snr_db.to(device))
    latent = normalise_power(codec.analyse(images, assumed, channels.to(device)).float(), channels.to(device))
    variance = draw_noise_variance(state, latent, recipe, random).to(device)
    noise = torch.randn(latent.shape, generator=random).to(device)
    sent = (torch.arange(latent.shape[1], device=device)[None] < channels.to(device)[:, None])[..., None, None]
    lost = torch.isinf(variance) | ~sent
    received = torch.where(lost, 0, latent + noise * (variance.where(~lost, 0) / 2).sqrt())
    reliability = torch.where(lost, 0, 1 / (1 + variance))
    met = ChannelState.awgn(state.snr_db.to(device), state.tx_snr_db.to(device))
    return codec.synthesise(received, reliability, met, channels.to(device)).float()


class Trainer:
    """A run in a folder: weights, their average, optimisers and step, saved about every minute and found again.

    out/checkpoint.pt   everything that the run needs to go on
    out/recipe.json     what it computes
    out/model/          the averaged weights, ready for `diffjscc … --model out/model`
    """

    def __init__(
        self,
        data: str | Path,
        out: str | Path,
        architecture: dict,
        recipe: CodecRecipe,
        device: str = "cpu",
        checkpoint_seconds: float = 50.0,
    ):
        """Raises ValueError where ``data`` has no pictures, or ``out`` holds a run of another architecture or recipe."""
        self.recipe, self.out, self.device = recipe, Path(out), torch.device(device)
        training, held_out = split(data)
        self.crops = RandomCrops(training, recipe.crop, recipe.batch, recipe.seed)
        self.held_out = [_whole_blocks(read_image(path)) for path in held_out[:VALIDATION_PICTURES]]
        torch.manual_seed(recipe.seed)
        self.codec: Codec = build_codec(architecture).to(self.device)
        self.architecture = architecture
        self._checkpoint_seconds = checkpoint_seconds
        self.step = 0
        self.psnr: dict[str, float] = {}
        self._checkpoint = self.out / "checkpoint.pt"
        if self._checkpoint.exists():
            self._check_same_run()
        elif recipe.start_from:
            self.codec.load_state_dict(load_codec(recipe.start_from, device, torch.float32).state_dict())
        elif hasattr(self.codec, "start_from_principal_components"):
            self.codec.start_from_principal_components(_sample_blocks(self.crops).to(self.device))
        self.average = {name: value.detach().clone() for name, value in self.codec.state_dict().items()}
        self.optimisers = build_optimisers(self.codec, recipe)
        if self._checkpoint.exists():
            self._resume()

    def run(self, on_step: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Trains to the last step and returns the folder of the exported model."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "recipe.json").write_text(json.dumps(self._description(), indent=2) + "\n")
        saved = time.monotonic()
        for loss in self._steps():
            if time.monotonic() - saved > self._checkpoint_seconds or self.step == self.recipe.steps:
                self.psnr = self.validate()
                self.save()
                saved = time.monotonic()
            on_step(Progress(self.step, loss, self.psnr))
        return self.out / "model"

    def _steps(self) -> Iterator[float]:
        self.codec.train()
        while self.step < self.recipe.steps:
            random = torch.Generator().manual_seed((self.recipe.seed << 32) + self.step)
            images = self.crops(self.step).to(self.device, memory_format=torch.channels_last)
            channels, state = draw_conditions(self.codec, self.recipe, random)
            with torch.autocast(self.device.type, torch.bfloat16):
                decoded = reconstruct(self.codec, images, channels, state, self.recipe, random)
            loss = (decoded - images).square().mean((1, 2, 3)).add(LOSS_FLOOR).log().mean()
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
            # One batch whose gradient overflows must not cost the run.
            if torch.isfinite(norm):
                for optimiser in self.optimisers:
                    for group in optimiser.param_groups:
                        group["lr"] = group["peak_lr"] * self.recipe.rate_of_learning(self.step)
                    optimiser.step()
                self._update_average()
            self.step += 1
            yield loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average must not remember the start.
        decay = min(self.recipe.ema, (self.step + 1) / (self.step + 10))
        for name, value in self.codec.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean held-out PSNR, dB, of the averaged weights, by point: {"1/128@1dB": 21.3, …}."""
        training = {name: value.clone() for name, value in self.codec.state_dict().items()}
        self.codec.load_state_dict(self.average)
        self.codec.eval()
        points = {(self.codec.rates[which], snr_db) for which, snr_db in VALIDATION_POINTS}
        psnr = {f"{rate}@{snr_db:g}dB": self._held_out_psnr(rate_channels(rate), snr_db) for rate, snr_db in sorted(points)}
        self.codec.load_state_dict(training)
        self.codec.train()
        return psnr

    def _held_out_psnr(self, channels: int, snr_db: float) -> float:
        random = torch.Generator().manual_seed(0)
        even = CodecRecipe(batch=1, uneven=0)
        state = ChannelState.awgn(torch.tensor([snr_db]))
        decibels = []
        for image in self.held_out:
            image = image.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                decoded = reconstruct(self.codec, image, torch.tensor([channels]), state, even, random)
            decibels.append(-10 * (decoded.clamp(0, 1) - image).square().mean().log10().item())
        return sum(decibels) / len(decibels)

    def _description(self) -> dict:
        return {"architecture": self.architecture, **asdict(self.recipe)}

    def _check_same_run(self) -> None:
        before = json.loads((self.out / "recipe.json").read_text())
        # More steps, or fewer, is how a run is prolonged or wound up early.
        changed = [k for k, v in self._description().items() if k != "steps" and before.get(k) != v]
        if changed:
            raise ValueError(f"{self.out} holds a run with another {', '.join(changed)}: give the same options, or another --out")

    def save(self) -> None:
        """Writes checkpoint.pt and model/; a kill in between leaves the former ones."""
        state = {
            "step": self.step,
            "codec": self.codec.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "psnr": self.psnr,
        }
        partial = self._checkpoint.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self._checkpoint)
        exported = build_codec(self.architecture)
        exported.load_state_dict(self.average)
        save_codec(exported, self.out / "model")

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.codec.load_state_dict(state["codec"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.psnr = state["step"], state["psnr"]


def build_optimisers(codec: Codec, recipe: CodecRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions of residual stages, AdamW for the rest (stems, heads, gains, norms, biases)."""
    convolutions = {
        parameter
        for module in codec.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels >= 64 and module.out_channels >= 64
        for parameter in [module.weight]
    }
    # AdamW moves every weight by about its learning rate, whatever the weight's size: filters over 768 inputs, whose
    # weights are small, would be shaken by several per cent a step, and the high-SNR end with them.
    wide = {
        module.weight
        for module in codec.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride[0] == BLOCK
    }
    others = [p for p in codec.parameters() if p not in convolutions and p not in wide]
    groups = [{"params": others, "lr": recipe.lr}]
    if wide:
        groups.append({"params": [p for p in codec.parameters() if p in wide], "lr": recipe.lr / 10})
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)]
    if convolutions:
        kernels = [parameter for parameter in codec.parameters() if parameter in convolutions]
        optimisers.append(FlatMuon(kernels, lr=recipe.muon_lr))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers


class FlatMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only, on convolution kernels seen as (out, in·h·w)."""

    def __init__(self, kernels: list[nn.Parameter], lr: float):
        self.kernels = kernels
        # Views share storage with the kernels, so that a step on one is a step on the other.
        super().__init__([nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels], lr=lr, weight_decay=0.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self.kernels:
            kernel.grad = None

    def step(self, closure=None):
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"]):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)


def _whole_blocks(pixels) -> Tensor:
    height, width = (side - side % BLOCK for side in pixels.shape[:2])
    return to_tensor(pixels[:height, :width])[None]


def _sample_blocks(crops: RandomCrops, batches: int = 64) -> Tensor:
    """Random 16×16 blocks of the training pictures, (M, 768) in [−0.5, 0.5]."""
    images = torch.cat([crops(step) for step in range(batches)]) - 0.5
    return nn.functional.unfold(images, BLOCK, stride=BLOCK).transpose(1, 2).reshape(-1, 3 * BLOCK * BLOCK)
