# SPDX-License-Identifier: GPL-3.0-or-later
"""Latents and the channel: what lies between the networks and the complex symbols."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelState:
    """What encoder and decoder know of the channel, a row an image.

    snr_db     float32 (N,): at the encoder the SNR asked for, at the decoder the SNR met
    fading     complex64 (N,): the flat-fading gain h; 1 on AWGN
    tx_snr_db  float32 (N,): the SNR that the encoder assumed, which the decoder reads in the header
    """

    snr_db: Tensor
    fading: Tensor
    tx_snr_db: Tensor

    @classmethod
    def awgn(cls, snr_db: Tensor, tx_snr_db: Tensor | None = None) -> ChannelState:
        """The state of a channel that only adds noise; the encoder knew it unless ``tx_snr_db`` says otherwise."""
        return cls(snr_db, torch.ones_like(snr_db, dtype=torch.complex64), snr_db if tx_snr_db is None else tx_snr_db)


def normalise_power(latent: Tensor, channels: Tensor) -> Tensor:
    """Scales each image's latent to mean |y|² = 1 over the symbols that it sends, and silences the rest.

    latent (N,C,h,w) float32; channels (N,): how many of the C are sent, two real ones a complex symbol.
    A latent that is all zero becomes symbols of equal power, so that the air never carries NaN.
    """
    sent = (torch.arange(latent.shape[1], device=latent.device)[None] < channels[:, None])[..., None, None]
    # Scaled by the peak first: squares of very small or large values would leave float32's range.
    latent = latent * sent
    peak = latent.detach().abs().amax((1, 2, 3), keepdim=True)
    flat = (peak == 0) | ~torch.isfinite(peak)
    latent = torch.where(flat, sent.to(latent.dtype), latent / torch.where(flat, torch.ones_like(peak), peak))
    symbols = channels[:, None, None, None] * (latent.shape[2] * latent.shape[3]) / 2
    power = latent.square().sum((1, 2, 3), keepdim=True) / symbols
    return latent * power.rsqrt()


def latent_to_symbols(latent: Tensor) -> Tensor:
    """latent (N,C,h,w) → complex64 (N, C·h·w/2): channel c with channel c + C/2."""
    real, imaginary = latent.chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous()).flatten(1)


def symbols_to_latent(symbols: Tensor, channels: int, grid: tuple[int, int]) -> Tensor:
    """complex (N, C·h·w/2) → latent float32 (N,C,h,w); the inverse of `latent_to_symbols`."""
    symbols = symbols.reshape(-1, channels // 2, *grid)
    return torch.cat((symbols.real, symbols.imag), dim=1)


def weigh(latent: Tensor, reliability: Tensor) -> Tensor:
    """Shrinks each value by its reliability relative to the image's mean, for decoders that are told one SNR.

    Values as reliable as the others pass unchanged, lost ones become zero. Both tensors (N,C,h,w).
    """
    received = (reliability > 0).sum((1, 2, 3), keepdim=True).clamp(min=1)
    mean = reliability.sum((1, 2, 3), keepdim=True) / received
    relative = reliability / mean.clamp(min=torch.finfo(reliability.dtype).tiny)
    # Equal variances must leave the values bit for bit.
    return torch.where((relative - 1).abs() < 1e-6, latent, latent * relative)
