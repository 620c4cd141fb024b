# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a codec: through a channel, for many rates and SNRs at once, or as the paper does for one rate.

    image ─► encoder ─► mean |y|² = 1 ─► channel at γ ─► decoder ─► loss
                                                            └─► critic, where the recipe has one (DeepJSCC-adv)

γ, the rate, fades and losses are drawn anew for each image.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..channel import transmit
from ..codec import ARCHITECTURES, Codec, LiteCodec, build_codec
from ..errors import one_line
from ..fields import unknown_key
from ..hub import load_codec, save_codec
from ..metrics import psnr
from ..symbols import BLOCK, rate_channels
from .average import RunningAverage
from .channels import ChannelRecipe
from .codec_path import CodecPath, draw_conditions, receive
from .critic import Adversary
from .dataset import read_held_out
from .difficulty import Difficulty
from .draws import Draws
from .grids import stacked
from .optimisers import KINDS, SCHEDULES, build_optimisers
from .recipes import Recipe
from .run import Run

#: Losses by name. All are means over images of a function of the mean squared error (MSE).
LOSSES = ("mse", "log-mse", "relative")

#: Added to the MSE inside the logarithm: images better than about 35 dB are not polished further.
LOSS_FLOOR = 3e-4

#: Added to an image's expected MSE, and the most that one crop may count, in the relative loss.
RELATIVE_FLOOR, RELATIVE_LIMIT = 1e-4, 8.0

#: Where held-out images are measured: which of the codec's rates, and the SNR in dB.
VALIDATION_POINTS = ((0, 1.0), (-1, 1.0), (-1, 13.0))

#: Held-out images measured, those shown to trackers, and pixels a side of these.
VALIDATION_IMAGES, SHOWN, SHOWN_SIDE = 12, 4, 256


@dataclass(frozen=True, kw_only=True)
class CodecRecipe(Recipe):
    """What a codec's training computes.

    architecture  of the codec: {architecture: lite | resnet | swin, and its options}
    start_from    name or folder of the codec whose weights to begin with; "" for new ones. It may have fewer blocks: the
                  others begin as identities
    loss          "mse" (the paper's); "log-mse": mean of log(MSE + ε) over crops, so that a decibel counts the same at every
                  rate and SNR; "relative": MSE of a crop over that of its whole image as ``start_from`` has it, which
                  makes the mean PSNR of whole images rise fastest
    optimiser     "adam" (the paper's), or "muon" (Muon for wide convolutions, AdamW for the rest)
    lr, muon_lr   peak learning rates of Adam or AdamW, and of Muon
    schedule      "cosine", or "linear": a plateau and a linear fall
    decay         share of the steps, at the end, over which learning rates fall to zero
    warm_up       steps over which they rise
    rates         rates to draw from, the same one several times to draw it more often; none: every rate that the codec has
    snr_range_db  SNRs to draw from, dB; none: the codec's range
    channel       between encoder and decoder: see `channels.ChannelRecipe`
    adversarial   weight α of a patch critic's opinion (DeepJSCC-adv); 0 for none
    critic_lr     peak learning rate of the critic
    ema           decay of the running average of the weights that is exported; 0: the last weights
    """

    kind = "codec"
    nested = {"channel": ChannelRecipe}

    architecture: dict = field(default_factory=lambda: {"architecture": "lite"})
    start_from: str = ""
    loss: str = "log-mse"
    optimiser: str = "muon"
    lr: float = 1e-3
    muon_lr: float = 0.01
    schedule: str = "linear"
    decay: float = 0.4
    warm_up: int = 100
    rates: list[str] = field(default_factory=list)
    snr_range_db: list[float] = field(default_factory=list)
    channel: ChannelRecipe = field(default_factory=ChannelRecipe)
    adversarial: float = 0.0
    critic_lr: float = 4e-4
    ema: float = 0.999

    def __post_init__(self):
        super().__post_init__()
        check_architecture(self.architecture)
        self.check("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}")
        self.check("loss", self.loss != "relative" or bool(self.start_from), "another one without start_from")
        self.check("optimiser", self.optimiser in KINDS, f"one of {', '.join(KINDS)}")
        self.check("precision", self.precision != "fp16" or self.optimiser == "adam", "bf16 or no with optimiser = muon")
        self.check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        self.check_above_zero("lr", "muon_lr", "critic_lr")
        for name in ("warm_up", "adversarial"):
            self.check(name, getattr(self, name) >= 0, "at least 0")
        self.check_share("decay")
        self.check_average()
        self.check_snr_range()


def check_architecture(options: dict[str, Any]) -> None:
    """Raises ValueError for an architecture, or an option of it, that does not exist."""
    name = options.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"architecture.architecture = {name!r}: must be one of {', '.join(ARCHITECTURES)}")
    known = ["architecture", *list(inspect.signature(ARCHITECTURES[name].__init__).parameters)[1:]]
    for key in options:
        if key not in known:
            raise unknown_key("architecture.", key, known)


def build_architecture(options: dict[str, Any]) -> Codec:
    """An untrained codec. Raises ValueError for options of the wrong type or size."""
    try:
        return build_codec(options)
    except MemoryError:
        raise
    except Exception as error:
        # Values of a wrong type or size meet the layers of the network, which raise what they like.
        raise ValueError(f"architecture = {options}: {one_line(error)}") from None


class CodecTrainer(Run):
    """Trains a codec; see `Run`."""

    def build(self) -> None:
        recipe: CodecRecipe = self.recipe
        self.codec = build_architecture(recipe.architecture)
        # A wrong rate is refused now, and not with the first step; Sionna is looked for.
        draw_conditions(self.codec, recipe.channel, Draws(0, [0]), recipe.rates, recipe.snr_range_db)
        recipe.channel.multipath()
        self.held_out_images = read_held_out(self.held_out, VALIDATION_IMAGES, self.unreadable)
        self.difficulty = None
        if recipe.loss == "relative":
            measured_in = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
            self.difficulty = Difficulty(load_codec(recipe.start_from, self.device, measured_in), self.training)
        if not self.resuming:
            self._begin()
        self.codec.to(self.device)
        self.average = RunningAverage(self.codec, recipe.ema)
        # AdamW moves every weight by about its learning rate, whatever the weight's size: filters over 768 inputs, whose
        # weights are small, would change by several per cent a step, and images at high SNR with them.
        slow = {
            module.weight
            for module in self.codec.modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride[0] == BLOCK
        }
        optimisers = build_optimisers(self.codec, recipe.optimiser, recipe.lr, recipe.muon_lr, narrowest=64, slow=slow)
        self.optimisers = [self.accelerator.prepare(optimiser) for optimiser in optimisers]
        self.network = self.accelerator.prepare(CodecPath(self.codec, recipe.compile))
        self.adversary = Adversary(self.accelerator, recipe.critic_lr) if recipe.adversarial else None

    def _begin(self) -> None:
        if self.recipe.start_from:
            grow_into(self.codec, load_codec(self.recipe.start_from, "cpu", torch.float32))
        elif isinstance(self.codec, LiteCodec):
            self.codec.start_from_principal_components(self._sample_blocks())

    def _sample_blocks(self, crops: int = 512, each: int = 64) -> Tensor:
        """16×16 blocks from random crops, about ``each`` of a crop, (M, 768) in [−0.5, 0.5]."""
        blocks = []
        for number in range(crops):
            image, _ = self.crops([number])
            found = nn.functional.unfold(image - 0.5, BLOCK, stride=BLOCK)[0].T
            blocks.append(found[:: max(1, len(found) // each)].clone())
        return torch.cat(blocks)

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"codec": self.codec, "average": self.average}
        parts |= {f"optimiser{i}": optimiser for i, optimiser in enumerate(self.optimisers)}
        parts |= self.adversary.parts() if self.adversary else {}
        return parts | ({"difficulty": self.difficulty} if self.difficulty else {})

    def prepared(self) -> list[nn.Module]:
        return [self.network, *([self.adversary.prepared] if self.adversary else [])]

    def schedule(self, step: int) -> float:
        recipe: CodecRecipe = self.recipe
        return SCHEDULES[recipe.schedule](step, recipe.steps, recipe.decay, recipe.warm_up)

    def loss(self, images: Tensor, indices: list[int], draws: Draws, factor: float) -> Tensor:
        recipe: CodecRecipe = self.recipe
        channels, state = draw_conditions(self.codec, recipe.channel, draws, recipe.rates, recipe.snr_range_db)
        self.codec.train()
        with self.accelerator.autocast():
            decoded = self.network(images, channels, state, recipe.channel, draws)
        error = (decoded.float() - images).square().mean((1, 2, 3))
        if self.difficulty is not None:
            expected = self.difficulty(indices, channels, state.snr_db).to(error)
            loss = (error / (expected + RELATIVE_FLOOR)).clamp(max=RELATIVE_LIMIT).mean()
        elif recipe.loss == "log-mse":
            loss = (error + LOSS_FLOOR).log().mean()
        else:
            loss = error.mean()
        if self.adversary is not None:
            loss = loss + recipe.adversarial * self.adversary.loss(images, decoded, self.step, factor)
        return loss

    def after_step(self) -> None:
        self.average.update()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean held-out PSNR, dB, by point: {"1/128@1dB": 21.3, …}; through the recipe's channel too, where it has one."""
        scores = {}
        with self.average:
            for rate, snr_db in sorted({(self.codec.rates[which], snr_db) for which, snr_db in VALIDATION_POINTS}):
                point = f"{rate}@{snr_db:g}dB"
                scores[point] = self._held_out_psnr(rate_channels(rate), snr_db, ChannelRecipe())
                if not self.recipe.channel.only_noise:
                    scores[f"{point}, channel"] = self._held_out_psnr(rate_channels(rate), snr_db, self.recipe.channel)
        return scores

    def _held_out_psnr(self, channels: int, snr_db: float, channel: ChannelRecipe) -> float:
        decibels = []
        for number, image in enumerate(self.held_out_images):
            image = image.to(self.device)
            decibels.append(psnr(self._receive(image, channels, snr_db, Draws(0, [number]), channel), image))
        return sum(decibels) / len(decibels)

    def _receive(self, image: Tensor, channels: int, snr_db: float, draws: Draws, channel: ChannelRecipe) -> Tensor:
        with self.accelerator.autocast():
            return receive(self.codec, image, channels, snr_db, draws, channel)

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        shown = {}
        images = [image[..., :SHOWN_SIDE, :SHOWN_SIDE].to(self.device) for image in self.held_out_images[:SHOWN]]
        with self.average:
            for which, snr_db in VALIDATION_POINTS[::2]:
                rate = self.codec.rates[which]
                received = [self._receive(x, rate_channels(rate), snr_db, Draws(0, [0]), ChannelRecipe()) for x in images]
                pairs = [torch.cat((image, other), dim=3)[0] for image, other in zip(images, received)]
                shown[f"original and received, {rate} at {snr_db:g} dB"] = stacked(pairs)
        return shown

    def export(self, folder: Path) -> None:
        exported = build_codec(self.recipe.architecture)
        exported.load_state_dict(self.average.values)
        save_codec(exported, folder)


def grow_into(codec: Codec, smaller: Codec) -> None:
    """Gives ``codec`` the weights of a codec of its architecture that may have fewer blocks; new blocks begin as identities.

    Raises ValueError where ``smaller`` is of another architecture, has a tensor that ``codec`` has not, or lacks one that does
    not begin as an identity.
    """
    weights, ours = smaller.state_dict(), codec.state_dict()
    for name, value in weights.items():
        if name not in ours or ours[name].shape != value.shape:
            shape = f"{tuple(value.shape)} there, {tuple(ours[name].shape)} here" if name in ours else "not in this one"
            raise ValueError(
                f"start_from names a codec of another architecture: its tensor {name} is {shape}; give its architecture, or none"
                " to begin with"
            )
    codec.load_state_dict({**ours, **weights})
    new = sorted(ours.keys() - weights.keys())
    if new and not torch.allclose(_sent_and_received(codec), _sent_and_received(smaller), atol=1e-3):
        raise ValueError(f"start_from names a codec of another architecture: it lacks {', '.join(new[:3])} …")


def _sent_and_received(codec: Codec) -> Tensor:
    """What a codec makes of a small image."""
    ramp = torch.linspace(0, 1, 4 * BLOCK)
    symbols = codec.encode((ramp[:, None] * ramp).expand(3, -1, -1), 10.0)
    return codec.decode(transmit(symbols, 10.0), symbols.header)
