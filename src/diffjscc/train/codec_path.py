# SPDX-License-Identifier: GPL-3.0-or-later
"""Images through a codec and a training channel: what every training that needs received images shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..codec import Codec
from ..codec.latent import ChannelState, normalise_power
from ..symbols import rate_channels
from .channels import ChannelRecipe, draw_gain, pass_channel
from .draws import Draws


def draw_conditions(
    codec: Codec,
    channel: ChannelRecipe,
    draws: Draws,
    rates: Sequence[str] = (),
    snr_range_db: Sequence[float] = (),
) -> tuple[Tensor, ChannelState]:
    """Channels to send (N,) and the state of the channel, at random. Raises ValueError for a rate that the codec lacks."""
    low, high = snr_range_db or codec.snr_range_db
    table = torch.tensor([rate_channels(codec.check_rate(rate)) for rate in rates or codec.rates])
    snr_db, assumed = draws.uniform(low, high), draws.uniform(low, high)
    mistaken = draws.uniform() < channel.mismatch
    channels = table[draws.integers(len(table))]
    return channels, ChannelState(snr_db, draw_gain(channel, draws), torch.where(mistaken, assumed, snr_db))


class CodecPath(nn.Module):
    """Images through encoder, channel and decoder, differentiably; one forward call, as DistributedDataParallel needs.

    compile  whether torch.compile compiles encoder and decoder
    """

    def __init__(self, codec: Codec, compile: bool = False):
        super().__init__()
        self.codec = codec
        self._analyse, self._synthesise = codec.analyse, codec.synthesise
        if compile:
            self._analyse, self._synthesise = torch.compile(codec.analyse), torch.compile(codec.synthesise)

    def forward(self, images: Tensor, channels: Tensor, state: ChannelState, channel: ChannelRecipe, draws: Draws) -> Tensor:
        """images (N,3,H,W) in [0,1]; on the CPU channels (N,) to be sent, and state of the channel → decoded (N,3,H,W)."""
        device = images.device
        sent, gain, assumed = channels.to(device), state.fading.to(device), state.tx_snr_db.to(device)
        latent = self._analyse(images, ChannelState(assumed, gain, assumed), sent).float()
        latent = normalise_power(latent, sent)
        # torch's FFTs and complex numbers know no mixed precision.
        with torch.autocast(device.type, enabled=False):
            received, reliability, snr_db = pass_channel(latent, channels, state, channel, draws)
        met = ChannelState(snr_db.to(device), gain, assumed)
        return self._synthesise(received, reliability, met, sent).float()


def receive(
    codec: Codec, image: Tensor, channels: int, snr_db: float, draws: Draws, channel: ChannelRecipe | None = None
) -> Tensor:
    """A held-out image (1,3,H,W) as it arrives, in [0, 1]; over a channel that only adds noise unless one is given."""
    channel = channel or ChannelRecipe()
    state = ChannelState.awgn(torch.tensor([snr_db]))
    state = ChannelState(state.snr_db, draw_gain(channel, draws), state.tx_snr_db)
    return CodecPath(codec)(image, torch.tensor([channels]), state, channel, draws).clamp(0, 1)
