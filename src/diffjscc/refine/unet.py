# SPDX-License-Identifier: GPL-3.0-or-later
"""A UNet that upsamples smoothly."""

from __future__ import annotations

from functools import wraps

import torch.nn.functional as F

# diffusers' pipelines look for ModelMixin in the module of a component that is not their own.
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401
from diffusers.models.upsampling import Upsample2D
from torch import Tensor


class SmoothUpsample2D(Upsample2D):
    """Twice the resolution by bilinear interpolation, then the same 3×3 convolution."""

    def forward(self, hidden_states: Tensor, output_size: int | None = None, *args, **kwargs) -> Tensor:
        size = output_size or [2 * side for side in hidden_states.shape[-2:]]
        return self.conv(F.interpolate(hidden_states, size=size, mode="bilinear", align_corners=False))


class SmoothUNet(UNet2DConditionModel):
    """diffusers' UNet with bilinear upsampling in place of nearest-neighbour; weights are exchangeable between the two.

    Nearest-neighbour upsampling puts an edge at every second value. A large network learns to remove these edges; a network of
    ten million weights that is trained to add detail keeps them, and a lattice shows in the image.
    """

    # diffusers reads the configuration's names from the signature; mypy cannot follow it.
    @wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for block in self.up_blocks:
            for index, layer in enumerate(block.upsamplers or ()):
                smooth = SmoothUpsample2D(layer.channels, use_conv=True, out_channels=layer.out_channels)
                block.upsamplers[index] = smooth
