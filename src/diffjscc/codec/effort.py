# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoder effort: symbols made better for one image by gradient descent through the decoder.

An encoder network maps every image in one pass; for a single image better symbols exist, and the sender has the image to look for
them with, as image codecs spend time for quality (for neural image compression: Campos et al., 2019). The receiver need not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..snr import noise_variance
from .latent import ChannelState, normalise_power

if TYPE_CHECKING:
    from .codec import Codec

#: Step of a symbol's real or imaginary part, of which the mean square is 1/2: at first; it falls to zero in a straight line.
STEP = 0.02


def improve(
    codec: Codec,
    images: Tensor,
    latent: Tensor,
    state: ChannelState,
    channels: Tensor,
    effort: int,
    enough: Callable[[], bool] | None = None,
    seed: int = 0,
) -> Tensor:
    """A latent from which the decoder makes better images than from the encoder's own.

    images    (N,3,H,W) in [0, 1], sides multiples of 16
    latent    (N,C,h,w), mean |y|² = 1: where the search starts
    state     of the channel, as the encoder assumes it
    channels  (N,) real channels sent, C each
    effort    steps of Adam on the mean squared error, each with fresh noise at the SNR assumed
    enough    is asked before each step; with True the search ends, and what was found by then is returned
    seed      of that noise

    Returns (N,C,h,w), mean |y|² = 1.
    """
    device = latent.device
    random = torch.Generator().manual_seed(seed)
    variance = noise_variance(state.snr_db)[:, None, None, None].expand_as(latent)
    reliability = 1 / (1 + variance)
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors of inference mode know no gradients.
        images, variance, reliability, channels = (t.clone() for t in (images, variance, reliability, channels))
        state = ChannelState(state.snr_db.clone(), state.fading.clone(), state.tx_snr_db.clone())
        latent = latent.clone().requires_grad_()
        optimiser = torch.optim.Adam([latent], lr=STEP, betas=(0.9, 0.99), eps=1e-12)
        for step in range(effort):
            if enough is not None and enough():
                break
            optimiser.param_groups[0]["lr"] = STEP * (1 - step / effort)
            noise = torch.randn(latent.shape, generator=random).to(device)
            received = normalise_power(latent, channels) + noise * (variance / 2).sqrt()
            decoded = codec.synthesise(received, reliability, state, channels).float()
            # Summed, so that an image's gradient does not depend on its batch.
            error = (decoded - images).square().mean((1, 2, 3)).sum()
            latent.grad = torch.autograd.grad(error, latent)[0]
            optimiser.step()
        return normalise_power(latent.detach(), channels)
