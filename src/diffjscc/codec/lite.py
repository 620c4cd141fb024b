# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled codec: every rate and every SNR from one set of weights, fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..symbols import BLOCK, rate_channels
from .codec import Codec
from .latent import ChannelState
from .swin import SwinBlock

#: Octaves of the sinusoids that a scalar condition is expanded into.
OCTAVES = 4


#: Side of the windows of attention, latent positions; channels of a head; expansion of its MLP.
WINDOW, HEAD, EXPANSION = 8, 32, 2


def _start_at_zero(layer: nn.Module) -> None:
    """Sets the weights and biases of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Condition(nn.Module):
    """Scalars of about [−1, 1] to one embedding: (N, inputs) → (N, width)."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        first = nn.Linear(inputs * (1 + 2 * OCTAVES), width)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, scalars: Tensor) -> Tensor:
        phase = scalars[..., None] * 2.0 ** torch.arange(OCTAVES, dtype=scalars.dtype, device=scalars.device)
        lifted = torch.cat((scalars[..., None], phase.sin(), phase.cos()), dim=-1).flatten(1)
        return self.mlp(lifted.to(next(self.mlp.parameters()).dtype))


class ModulatedBlock(nn.Module):
    """z + conv(SiLU(h·(1+m) + a)), h = conv(SiLU(z)), with m and a from the mean of h and the condition.

    Squeeze-excitation told of SNR and rate (Yang and Kim, ICASSP 2022, eq. 4). The second convolution starts at zero:
    the network then starts as its skip paths, and a learning rate at which it diverged otherwise is stable.
    """

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        squeeze, scale_and_shift = nn.Linear(width + condition, condition), nn.Linear(condition, 2 * width)
        self.modulation = nn.Sequential(squeeze, nn.SiLU(), scale_and_shift)
        for layer in (self.second, scale_and_shift):
            _start_at_zero(layer)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        h = self.first(F.silu(z))
        squeezed = torch.cat((h.mean((2, 3)), condition), dim=1)
        scale, shift = self.modulation(squeezed)[..., None, None].chunk(2, dim=1)
        return z + self.second(F.silu(h * (1 + scale) + shift))


class Stage(nn.ModuleList):
    """Modulated blocks at one resolution. (N,C,h,w) → same."""

    def __init__(self, depth: int, width: int, condition: int):
        super().__init__(ModulatedBlock(width, condition) for _ in range(depth))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        for block in self:
            z = block(z, condition)
        return z


class Exchange(nn.Sequential):
    """Attention between the blocks of an image, in windows of which every second is shifted. (N,C,h,w) → same.

    Busy blocks may send some of what they need in the symbols of quiet ones. Starts as the identity.
    """

    def __init__(self, depth: int, width: int):
        shifts = [index % 2 * (WINDOW // 2) for index in range(depth)]
        blocks = [SwinBlock(width, width // HEAD, WINDOW, shift, EXPANSION) for shift in shifts]
        super().__init__(*blocks)
        for block in blocks:
            _start_at_zero(block.attn.proj)
            _start_at_zero(block.mlp.fc2)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelGain(nn.Module):
    """A positive gain for each latent channel, from the condition and a table by rate: the allocation of power to channels."""

    def __init__(self, channels: int, condition: int, rates: int):
        super().__init__()
        self.of_condition = nn.Linear(condition, channels)
        self.of_rate = nn.Parameter(torch.zeros(rates, channels))
        _start_at_zero(self.of_condition)

    def forward(self, condition: Tensor, rate_index: Tensor) -> Tensor:
        return (self.of_condition(condition) + self.of_rate[rate_index]).exp()[..., None, None]


class LiteEncoder(nn.Module):
    """Image to latent, at a quarter of the resolution and below.

    image ─┬► unshuffle ÷4 ─► stage ─► ÷2 ─► stage ─► ÷2 ─► stage ─► exchange ─► 3×3 ─► (+) ─► × gain ─► latent
    (3,H,W)│    (48,H/4,W/4)          (…,H/8,W/8)       (…,H/16,W/16)                    │               (C,H/16,W/16)
           └► linear transform of each 16×16 block ────────────────────────────────────►─┘

    The linear path is initialised with the first C principal components of a block and SoftCast's power allocation, and the
    network's own output with zero: training starts from the best linear analog code instead of from random weights. Without
    this path the finer components, which matter at high SNR, are learned last (docs/results.md).
    """

    def __init__(self, channels: int, widths: Sequence[int], depths: Sequence[int], attention: int, condition: int, rates: int):
        super().__init__()
        self.condition = Condition(2, condition)
        self.stem = nn.Conv2d(48, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(Stage(depth, width, condition) for depth, width in zip(depths, widths))
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:]))
        self.exchange = Exchange(attention, widths[-1])
        self.head = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.linear = nn.Conv2d(3, channels, BLOCK, stride=BLOCK)
        self.gain = ChannelGain(channels, condition, rates)
        _start_at_zero(self.head)

    def forward(self, image: Tensor, scalars: Tensor, rate_index: Tensor) -> Tensor:
        """image (N,3,H,W) in [0,1], H and W multiples of 16; scalars (N,2): SNR, rate → latent (N,C,H/16,W/16)."""
        image = image - 0.5
        condition = self.condition(scalars)
        z = self.stages[0](self.stem(F.pixel_unshuffle(image, 4)), condition)
        for halving, stage in zip(self.halvings, self.stages[1:]):
            z = stage(halving(z), condition)
        z = self.exchange(z)
        return (self.head(F.silu(z)) + self.linear(image)) * self.gain(condition, rate_index)


class LiteDecoder(nn.Module):
    """Latent to image: the encoder's mirror, with pixel shuffles.

    latent, reliability ─┬► 3×3 ─► exchange ─► stage ─► ×2 ─► stage ─► ×2 ─► stage ─► 3×3 ─► shuffle ×4 ─► (+) ─► image
    (2C,H/16,W/16)       │         (…,H/16,W/16)        (…,H/8,W/8)    (…,H/4,W/4)     (48,H/4,W/4)         │    (3,H,W)
                         └► × gain ─► linear transform back to each 16×16 block ───────────────────────────►┘
    """

    def __init__(self, channels: int, widths: Sequence[int], depths: Sequence[int], attention: int, condition: int, rates: int):
        super().__init__()
        widths, depths = tuple(widths)[::-1], tuple(depths)[::-1]
        self.condition = Condition(3, condition)
        self.stem = nn.Conv2d(2 * channels, widths[0], 3, padding=1)
        self.exchange = Exchange(attention, widths[0])
        self.stages = nn.ModuleList(Stage(depth, width, condition) for depth, width in zip(depths, widths))
        self.doublings = nn.ModuleList(nn.Conv2d(a, 4 * b, 1) for a, b in zip(widths, widths[1:]))
        self.head = nn.Conv2d(widths[-1], 48, 3, padding=1)
        self.linear = nn.ConvTranspose2d(channels, 3, BLOCK, stride=BLOCK)
        self.gain = ChannelGain(channels, condition, rates)
        _start_at_zero(self.head)

    def forward(self, latent: Tensor, reliability: Tensor, scalars: Tensor, rate_index: Tensor) -> Tensor:
        """latent, reliability (N,C,h,w); scalars (N,3): SNR met, rate, SNR assumed → image (N,3,16h,16w)."""
        condition = self.condition(scalars)
        latent = latent * reliability * self.gain(condition, rate_index)
        z = self.exchange(self.stem(torch.cat((latent, reliability), dim=1)))
        z = self.stages[0](z, condition)
        for doubling, stage in zip(self.doublings, self.stages[1:]):
            z = stage(F.pixel_shuffle(doubling(F.silu(z)), 2), condition)
        return F.pixel_shuffle(self.head(F.silu(z)), 4) + self.linear(latent) + 0.5


class LiteCodec(Codec):
    """A codec for CPUs: one set of weights for every rate and for every SNR in [−5, 20] dB.

    At rate R the first C_out = 512 R latent channels are sent. The decoder gets each symbol's reliability 1/(1+σ²) as an
    input, and is trained with unequal noise and erasures.

    rates           rates it serves
    widths          channels at 1/4, 1/8 and 1/16 of the resolution
    encoder_depths, decoder_depths
                    modulated blocks at each of those
    attention       blocks of windowed attention in encoder and in decoder, at 1/16 of the resolution; of heads of 32 channels
    condition       width of the embedding of SNR and rate
    snr_range_db    range that it is trained for
    """

    architecture = "lite"
    rate_table: Tensor

    def __init__(
        self,
        rates: Sequence[str | Fraction] = ("1/128", "1/64", "1/32", "1/16"),
        widths: Sequence[int] = (64, 128, 192),
        encoder_depths: Sequence[int] = (1, 2, 3),
        decoder_depths: Sequence[int] = (1, 2, 4),
        attention: Sequence[int] = (0, 0),
        condition: int = 64,
        snr_range_db: tuple[float, float] = (-5.0, 20.0),
    ):
        super().__init__(rates, snr_range_db)
        if any(attention) and (widths[-1] < HEAD or widths[-1] % HEAD):
            raise ValueError(f"widths = {list(widths)}: with attention the last one must be a multiple of {HEAD}")
        self.widths, self.depths, self.condition = tuple(widths), (tuple(encoder_depths), tuple(decoder_depths)), condition
        self.register_buffer("rate_table", torch.tensor([rate_channels(r) for r in self.rates]), persistent=False)
        self.attention = tuple(attention)
        channels = rate_channels(self.rates[-1])
        self.encoder = LiteEncoder(channels, self.widths, encoder_depths, attention[0], condition, len(self.rates))
        self.decoder = LiteDecoder(channels, self.widths, decoder_depths, attention[1], condition, len(self.rates))

    @property
    def config(self) -> dict:
        return {
            "rates": [str(rate) for rate in self.rates],
            "widths": list(self.widths),
            "encoder_depths": list(self.depths[0]),
            "decoder_depths": list(self.depths[1]),
            "attention": list(self.attention),
            "condition": self.condition,
            "snr_range_db": list(self.snr_range_db),
        }

    def analyse(self, images: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        scalars = torch.stack((self._unit_snr(state.snr_db), self._unit_rate(channels)), dim=1)
        return self.encoder(images, scalars, self._rate_index(channels))

    def synthesise(self, latent: Tensor, reliability: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        # From the symbols' variances, which say more than the one SNR in ``state``; equal variances give that SNR.
        met = self._unit_snr(effective_snr_db(reliability))
        scalars = torch.stack((met, self._unit_rate(channels), self._unit_snr(state.tx_snr_db)), dim=1)
        unsent = rate_channels(self.rates[-1]) - latent.shape[1]
        latent, reliability = (F.pad(t, (0, 0, 0, 0, 0, unsent)).to(self.dtype) for t in (latent, reliability))
        latent = latent.contiguous(memory_format=torch.channels_last)
        return self.decoder(latent, reliability, scalars, self._rate_index(channels))

    @torch.no_grad()
    def start_from_principal_components(self, blocks: Tensor) -> None:
        """Sets the linear paths to the best linear analog code for these blocks, (M, 3·16·16) in [−0.5, 0.5].

        With eigenvalues λ of the blocks' covariance, SoftCast (Jakubczak and Katabi, 2011) scales component i by
        λ_i^(−1/4), which gives it power √λ_i. The decoder undoes that, and the mean power that the rate in use had.
        """
        channels = rate_channels(self.rates[-1])
        eigenvalues, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
        eigenvalues, vectors = eigenvalues.flip(0)[:channels], vectors.flip(1)[:, :channels]
        scale = eigenvalues**0.25
        self.encoder.linear.weight.copy_((vectors / scale).T.reshape(channels, 3, BLOCK, BLOCK))
        self.decoder.linear.weight.copy_((vectors * scale).T.reshape(channels, 3, BLOCK, BLOCK))
        for bias in (self.encoder.linear.bias, self.decoder.linear.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for gain, sent in zip(self.decoder.gain.of_rate, self.rate_table.tolist()):
            gain.fill_((2 * eigenvalues[:sent].sqrt().mean()).sqrt().log())

    def _rate_index(self, channels: Tensor) -> Tensor:
        return torch.searchsorted(self.rate_table, channels)

    def _unit_snr(self, snr_db: Tensor) -> Tensor:
        low, high = self.snr_range_db
        return (2 * snr_db.clamp(low, high) - low - high) / (high - low)

    def _unit_rate(self, channels: Tensor) -> Tensor:
        low, high = (self.rate_table[end].float().log2() for end in (0, -1))
        return (2 * channels.float().log2() - low - high) / (high - low).clamp(min=1)


def effective_snr_db(reliability: Tensor) -> Tensor:
    """SNR in dB of equal noise that would make the received values as reliable as these are on average. (N,C,h,w) → (N,)."""
    received = (reliability > 0).sum((1, 2, 3)).clamp(min=1)
    mean = (reliability.sum((1, 2, 3)) / received).clamp(1e-6, 1 - 1e-6)
    return 10 * torch.log10(mean / (1 - mean))
