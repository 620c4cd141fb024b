# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's codec: a ResNet autoencoder with SNR-modulated residual blocks (Yang and Kim, ICASSP 2022).

Module names follow the authors' checkpoints, so that theirs load as they are.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from ..symbols import rate_channels
from .codec import Codec
from .latent import ChannelState, weigh

#: Columns of CSI that each channel model gives the modulation layers: SNR in dB, then Re h and Im h.
CSI_WIDTH = {"awgn": 1, "rayleigh": 3}


class ResidualBlock(nn.Module):
    """z + BN(conv(ReLU(BN(conv(z))))), (N,C,h,w) throughout."""

    def __init__(self, width: int, reflect: bool):
        super().__init__()

        def conv() -> list[nn.Module]:
            # The decoder pads by reflection, the encoder by zeros; the authors' pad layers count in the tensor names.
            padding = [nn.ReflectionPad2d(1)] if reflect else []
            return [*padding, nn.Conv2d(width, width, 3, padding=0 if reflect else 1, bias=False), nn.BatchNorm2d(width)]

        self.conv_block = nn.Sequential(*conv(), nn.ReLU(), *conv())

    def forward(self, z: Tensor) -> Tensor:
        return z + self.conv_block(z)


class SnrModulation(nn.Module):
    """z·m(z̄, csi) + a(z̄, csi): squeeze-excitation with the channel state as an input. z (N,C,h,w), csi (N,1 or 3)."""

    def __init__(self, width: int, csi_width: int):
        super().__init__()

        def mlp() -> list[nn.Module]:
            return [nn.Linear(width + csi_width, width), nn.ReLU(), nn.Linear(width, width)]

        self.model_multi = nn.Sequential(*mlp(), nn.Sigmoid())
        self.model_add = nn.Sequential(*mlp())

    def forward(self, z: Tensor, csi: Tensor) -> Tensor:
        squeezed = torch.cat((z.mean((2, 3)), csi), dim=1)
        return z * self.model_multi(squeezed)[..., None, None] + self.model_add(squeezed)[..., None, None]


def _modulated_blocks(count: int, width: int, csi_width: int, reflect: bool) -> nn.ModuleList:
    layers = nn.ModuleList()
    for _ in range(count):
        layers += [ResidualBlock(width, reflect), SnrModulation(width, csi_width)]
    return layers


def _run(layers: nn.ModuleList, z: Tensor, csi: Tensor) -> Tensor:
    for block, modulation in zip(layers[::2], layers[1::2]):
        z = modulation(block(z), csi)
    return z


class ResnetEncoder(nn.Module):
    """Image to latent.

    image ─► 7×7 ─► 4 × (3×3, stride 2) ─► blocks × (residual, modulation) ─► 3×3 ─► latent
    (3,H,W)  (ngf)  (min(2ⁱ·ngf, cap), H/2ⁱ, W/2ⁱ)                            (C,H/16,W/16)
    """

    def __init__(self, ngf: int, cap: int, blocks: int, channels: int, csi_width: int):
        super().__init__()
        widths = [min(ngf * 2**i, cap) for i in range(5)]
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7, bias=False), nn.BatchNorm2d(ngf), nn.ReLU()]
        for narrow, wide in zip(widths, widths[1:]):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        self.net = nn.Sequential(*layers)
        self.res_list = _modulated_blocks(blocks, widths[-1], csi_width, reflect=False)
        self.projection = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, image: Tensor, csi: Tensor) -> Tensor:
        """image (N,3,H,W) in [0,1]; csi (N,1 or 3) → latent (N,C,H/16,W/16)."""
        return self.projection(_run(self.res_list, self.net(image), csi))


class ResnetDecoder(nn.Module):
    """Latent to image: the encoder's mirror, with transposed convolutions and a sigmoid."""

    def __init__(self, ngf: int, cap: int, blocks: int, channels: int, csi_width: int):
        super().__init__()
        widths = [min(ngf * 2**i, cap) for i in reversed(range(5))]
        self.mask_conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.res_list = _modulated_blocks(blocks, widths[0], csi_width, reflect=True)
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths, widths[1:]):
            layers += [
                nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
            ]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(2), nn.Conv2d(ngf, 3, 5), nn.Sigmoid())

    def forward(self, latent: Tensor, csi: Tensor) -> Tensor:
        """latent (N,C,h,w), equalised; csi (N,1 or 3) → image (N,3,16h,16w) in [0,1]."""
        return self.model(_run(self.res_list, self.mask_conv(latent), csi))


class ResnetCodec(Codec):
    """The codec of DiffJSCC: one rate a model, trained for AWGN or for Rayleigh fading with CSI at both ends.

    rate               R; C_out = 512 R
    csi                "awgn" (SNR) or "rayleigh" (SNR, Re h, Im h)
    ngf                width at full resolution; doubled at each halving up to the cap
    max_ngf_E, max_ngf_D, n_blocks_E, n_blocks_D
                       width cap and number of residual blocks of encoder and decoder, named as in the authors' config
    snr_range_db       range that it was trained for
    """

    architecture = "resnet"

    def __init__(
        self,
        rate: str | Fraction = "1/128",
        csi: str = "awgn",
        ngf: int = 64,
        max_ngf_E: int = 384,
        max_ngf_D: int = 384,
        n_blocks_E: int = 4,
        n_blocks_D: int = 4,
        snr_range_db: tuple[float, float] = (0.0, 14.0),
    ):
        super().__init__([rate], snr_range_db)
        if csi not in CSI_WIDTH:
            raise ValueError(f"csi {csi!r} is not one of {', '.join(CSI_WIDTH)}")
        self.csi, self.ngf, self.caps, self.blocks = csi, ngf, (max_ngf_E, max_ngf_D), (n_blocks_E, n_blocks_D)
        channels = rate_channels(self.rates[0])
        self.E = ResnetEncoder(ngf, max_ngf_E, n_blocks_E, channels, CSI_WIDTH[csi])
        self.G = ResnetDecoder(ngf, max_ngf_D, n_blocks_D, channels, CSI_WIDTH[csi])

    @property
    def config(self) -> dict:
        return {
            "rate": str(self.rates[0]),
            "csi": self.csi,
            "ngf": self.ngf,
            "max_ngf_E": self.caps[0],
            "max_ngf_D": self.caps[1],
            "n_blocks_E": self.blocks[0],
            "n_blocks_D": self.blocks[1],
            "snr_range_db": list(self.snr_range_db),
        }

    def analyse(self, images: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        return self.E(images, self._csi(state, images.dtype))

    def synthesise(self, latent: Tensor, reliability: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        latent = weigh(latent, reliability).to(self.dtype, memory_format=torch.channels_last)
        return self.G(latent, self._csi(state, latent.dtype))

    def _csi(self, state: ChannelState, dtype: torch.dtype) -> Tensor:
        columns = [state.snr_db]
        if self.csi == "rayleigh":
            columns += [state.fading.real, state.fading.imag]
        return torch.stack(columns, dim=1).to(dtype)
