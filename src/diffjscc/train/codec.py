# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a codec: a plain loop that can be killed at any time and goes on from its last minute.

The loss is the mean of log(MSE + ε) over images, so that a decibel counts the same at every rate and SNR; a plain mean
of MSE is ruled by the noisiest images. Matrices and convolutions of the residual stages are trained by Muon (Jordan et
al., 2024; torch.optim.Muon), everything else by AdamW.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..codec import Codec, LiteCodec, build_codec
from ..codec.codec import ChannelState, normalise_power
from ..hub import load_codec, save_codec
from ..metrics import psnr
from ..snr import noise_variance
from ..symbols import BLOCK, rate_channels
from .images import RandomCrops, split
from .optimisers import build_optimisers, take_step
from .run import Run, RunningAverage, warm_up_then_fall, whole_blocks

#: Added to the MSE inside the logarithm: images better than about 35 dB are not polished further.
LOSS_FLOOR = 3e-4

#: Where held-out images are measured: which of the codec's rates, and the SNR in dB.
VALIDATION_POINTS = ((0, 1.0), (-1, 1.0), (-1, 13.0))

#: Held-out images measured at each checkpoint.
VALIDATION_IMAGES = 12


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
    uneven    share of the images whose symbols meet unequal noise: erasures or fading
    mismatch  share of the images whose encoder assumed another SNR than the channel's
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
    """σ² for every latent value: equal, or for some images faded (σ²/|h|², h ~ CN(0,1)) or with up to 0.3 erased (+inf)."""
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
    """Images through encoder, noise and decoder, differentiably. images (N,3,H,W) → (N,3,H,W)."""
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


class CodecTrainer(Run):
    """Trains a codec; see `Run` for the folder that it keeps."""

    def __init__(
        self,
        data: str | Path,
        out: str | Path,
        architecture: dict,
        recipe: CodecRecipe,
        device: str = "cpu",
        checkpoint_seconds: float = 50.0,
    ):
        """Raises ValueError where ``data`` has no images, or ``out`` holds a run of another architecture or recipe."""
        super().__init__(out, {"architecture": architecture, **asdict(recipe)}, recipe.steps, checkpoint_seconds)
        self.recipe, self.device, self.architecture = recipe, torch.device(device), architecture
        training, held_out = split(data)
        self.crops = RandomCrops(training, recipe.crop, recipe.batch, recipe.seed)
        self.held_out = [whole_blocks(path) for path in held_out[:VALIDATION_IMAGES]]
        torch.manual_seed(recipe.seed)
        self.codec: Codec = build_codec(architecture).to(self.device)
        if recipe.start_from and not self.resuming:
            self.codec.load_state_dict(load_codec(recipe.start_from, device, torch.float32).state_dict())
        elif not self.resuming and isinstance(self.codec, LiteCodec):
            self.codec.start_from_principal_components(_sample_blocks(self.crops).to(self.device))
        self.average = RunningAverage(self.codec, recipe.ema)
        # AdamW moves every weight by about its learning rate, whatever the weight's size: filters over 768 inputs, whose
        # weights are small, would be shaken by several per cent a step, and the high-SNR end with them.
        filters = {
            module.weight
            for module in self.codec.modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride[0] == BLOCK
        }
        self.optimisers = build_optimisers(self.codec, recipe.lr, recipe.muon_lr, narrowest=64, slow=filters)
        self.resume()

    def parts(self):
        optimisers = {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        return {"codec": self.codec, "average": self.average, **optimisers}

    def train_step(self) -> float:
        self.codec.train()
        random = torch.Generator().manual_seed((self.recipe.seed << 32) + self.step)
        images = self.crops(self.step).to(self.device, memory_format=torch.channels_last)
        channels, state = draw_conditions(self.codec, self.recipe, random)
        with torch.autocast(self.device.type, torch.bfloat16):
            decoded = reconstruct(self.codec, images, channels, state, self.recipe, random)
        loss = (decoded - images).square().mean((1, 2, 3)).add(LOSS_FLOOR).log().mean()
        self.codec.zero_grad()
        loss.backward()
        if take_step(self.optimisers, self.codec, warm_up_then_fall(self.step, self.recipe.steps, self.recipe.decay)):
            self.average.update()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean held-out PSNR, dB, by point: {"1/128@1dB": 21.3, …}."""
        points = sorted({(self.codec.rates[which], snr_db) for which, snr_db in VALIDATION_POINTS})
        with self.average:
            return {f"{rate}@{snr_db:g}dB": self._held_out_psnr(rate_channels(rate), snr_db) for rate, snr_db in points}

    def _held_out_psnr(self, channels: int, snr_db: float) -> float:
        random = torch.Generator().manual_seed(0)
        decibels = []
        for image in self.held_out:
            image = image.to(self.device)
            decibels.append(psnr(receive(self.codec, image, channels, snr_db, random), image))
        return sum(decibels) / len(decibels)

    def export(self, folder: Path) -> None:
        exported = build_codec(self.architecture)
        exported.load_state_dict(self.average.values)
        save_codec(exported, folder)


def receive(codec: Codec, image: Tensor, channels: int, snr_db: float, random: torch.Generator) -> Tensor:
    """A held-out image (1,3,H,W) as it arrives over an AWGN channel, in [0, 1]."""
    even = CodecRecipe(batch=1, uneven=0)
    state = ChannelState.awgn(torch.tensor([snr_db]))
    with torch.autocast(image.device.type, torch.bfloat16):
        return reconstruct(codec, image, torch.tensor([channels]), state, even, random).clamp(0, 1)


def _sample_blocks(crops: RandomCrops, batches: int = 64) -> Tensor:
    """Random 16×16 blocks of the training images, (M, 768) in [−0.5, 0.5]."""
    images = torch.cat([crops(step) for step in range(batches)]) - 0.5
    return nn.functional.unfold(images, BLOCK, stride=BLOCK).transpose(1, 2).reshape(-1, 3 * BLOCK * BLOCK)
