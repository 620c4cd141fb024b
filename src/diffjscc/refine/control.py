# SPDX-License-Identifier: GPL-3.0-or-later
"""The control module of DiffJSCC."""

from __future__ import annotations

from inspect import Parameter, Signature, signature

import torch

# diffusers' pipelines look for ModelMixin in the module of a component that is not their own.
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel  # noqa: F401
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

#: SNR in dB enters the sinusoidal embedding times this (the authors' code), where a timestep would enter as it is.
SNR_SCALE = 100.0

#: What the control module takes from the configuration of the UNet that it steers.
SHARED_CONFIG = (
    "in_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "down_block_types",
    "mid_block_type",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "attention_head_dim",
    "num_attention_heads",
    "use_linear_projection",
    "transformer_layers_per_block",
)


def _with_defaults(base: Signature) -> Signature:
    """The signature with ``defaults`` added."""
    parameters = [*base.parameters.values(), Parameter("defaults", Parameter.KEYWORD_ONLY, default=None)]
    return base.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))


class SnrEmbedding(TimestepEmbedding):
    """(N, C) sinusoids of the SNR → (N, 4·C), added to the time embedding; zero where the SNR is not known (NaN)."""

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        known = torch.isfinite(sample).all(dim=1, keepdim=True)
        # The sinusoids come in float32 whatever the network computes in: at γ·100 bfloat16 would be too coarse.
        embedded = super().forward(sample.nan_to_num().to(self.linear_1.weight.dtype), condition)
        return torch.where(known, embedded, 0)


class ControlModule(ControlNetModel):
    """What steers a frozen UNet towards the received image (paper, section III-C).

        f_s ─► 3×3 ──────┐
        z_t ─► 3×3 ─────►+─► encoder of the UNet ─► middle block ─► zero 1×1 ─► added to the UNet's middle block
        t ─► embedding ─►+        │ (every level)
        γ ─► embedding ──┘        └─► zero 1×1 ─► added to the UNet's skip connections

    The paper concatenates [z_t, f_s] before the first convolution; by linearity that is a convolution of each, added.
    The SNR embedding is a timestep embedding of γ·100 with weights of its own, given as ``class_labels``. So this is
    diffusers' ControlNetModel with its conditioning embedding replaced by one convolution; see there for `forward` and for
    the arguments, of which there is one more:

    defaults  what `DiffJSCCPipeline` uses where a call does not say: the control module was trained for it
    """

    class_embedding: nn.Module | None

    def __init__(self, *args, defaults: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_to_config(defaults=defaults)
        width = self.config.block_out_channels[0]
        self.controlnet_cond_embedding = nn.Conv2d(self.config.conditioning_channels, width, kernel_size=3, padding=1)
        if self.class_embedding is not None:
            self.class_embedding = SnrEmbedding(width, 4 * width)

    # diffusers learns from the signature what config.json may hold.
    __init__.__signature__ = _with_defaults(signature(ControlNetModel.__init__))  # type: ignore[attr-defined]

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, snr: bool = True, defaults: dict | None = None) -> ControlModule:
        """A control module that starts as a copy of the UNet's encoder; its last convolutions are zero, so it has no effect yet.

        snr       whether it can be told the SNR
        defaults  see the class
        """
        control = cls(**control_config(unet.config, snr), defaults=defaults)
        for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
            getattr(control, part).load_state_dict(getattr(unet, part).state_dict())
        for parameter in control.controlnet_cond_embedding.parameters():
            nn.init.zeros_(parameter)
        return control


def control_config(unet_config: dict, snr: bool = True) -> dict:
    """The configuration of the control module that fits a UNet's."""
    return {name: unet_config[name] for name in SHARED_CONFIG if name in unet_config} | {
        "conditioning_channels": unet_config["in_channels"],
        "class_embed_type": "timestep" if snr else None,
    }
