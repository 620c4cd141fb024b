# SPDX-License-Identifier: GPL-3.0-or-later
"""How large an error each training image has as a whole, for a loss that is relative to it.

What counts in the end is the mean PSNR of whole images, whose gradient is that of a crop's squared error over the squared
error of its whole image. The logarithm of the crop's own error is another thing: it favours skies and walls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..codec import Codec
from ..codec.latent import ChannelState
from ..symbols import rate_channels
from .channels import ChannelRecipe
from .codec_path import CodecPath
from .dataset import ImageFile, whole_blocks
from .draws import Draws

#: SNRs, dB, at which images are measured; between and a little beyond them decibels are linear.
SNRS_DB = (1.0, 13.0)

#: No more than this of an image is measured, pixels a side.
MEASURED_SIDE = 640

#: Side of the tiles that are measured, pixels; every second one is, as on a chessboard, except where there are few.
TILE, FEW_TILES = 192, 4

#: Images that show how the codec's errors depend on rate and SNR together.
EXAMPLES = 8

#: The least MSE that is told apart from none.
LEAST_MSE = 1e-6


class Difficulty:
    """The mean squared error (MSE) to expect of an image at a rate and an SNR.

    codec  that the training starts from, in the type in which it is to measure
    files  of the training

    An image is measured when it is drawn for the first time: half of it, at the codec's lowest rate and 1 dB, and at its
    highest rate and 13 dB. Both other corners follow from these (a few images show how), and between the corners the logarithm
    of the MSE is interpolated. Against four measurements of the whole image in float32 this is wrong by 1 dB rms (19 training
    photographs), and takes a quarter of the time: the first steps of a training, in which every image is new, should not take
    much longer than the others. Tiles are large because a codec with attention does worse on small ones.
    """

    def __init__(self, codec: Codec, files: Sequence[ImageFile]):
        self._codec, self._files = codec, files
        self._channels = rate_channels(codec.rates[0]), rate_channels(codec.rates[-1])
        self._log_mse = torch.full((len(files), 2, len(SNRS_DB)), math.nan)
        self._bend: Tensor | None = None

    def __call__(self, indices: list[int], channels: Tensor, snr_db: Tensor) -> Tensor:
        """Expected MSE of the whole images, (N,), on the CPU; indices in ``files``, channels and snr_db (N,)."""
        for index in indices:
            if self._log_mse[index].isnan().any():
                self._log_mse[index] = self._estimate(self._files[index])
        low, high = self._channels
        rate = (channels / low).log2() / max(1.0, math.log2(high / low))
        snr = ((snr_db - SNRS_DB[0]) / (SNRS_DB[1] - SNRS_DB[0])).clamp(-0.4, 1.15)
        at_low, at_high = (row[:, 0].lerp(row[:, 1], snr) for row in self._log_mse[indices].unbind(1))
        return at_low.lerp(at_high, rate).exp()

    def _estimate(self, file: ImageFile) -> Tensor:
        """Logarithms of an image's MSE, (rates, SNRs)."""
        if self._bend is None:
            self._bend = self._measure_bend()
        tiles = _tiles(whole_blocks(file, MEASURED_SIDE))
        worst, best = (self._log_mse_of(tiles, self._channels[end], SNRS_DB[end]) for end in (0, 1))
        if self._channels[0] == self._channels[1]:
            return torch.stack((worst, best)).expand(2, 2)
        log_mse = ((worst + best) / 2).expand(2, len(SNRS_DB)) + self._bend
        log_mse[0, 0], log_mse[-1, -1] = worst, best
        return log_mse

    def _measure_bend(self) -> Tensor:
        """How far the mean logarithm of the MSE at each corner is from the middle of the two that are measured, (rates, SNRs).

        It depends on the files alone and not on the order in which they are drawn: each process of a training measures its own.
        """
        corners = []
        for file in self._files[:: max(1, len(self._files) // EXAMPLES)]:
            try:
                tiles = _tiles(whole_blocks(file, MEASURED_SIDE))
            except ValueError:
                # It is listed as unreadable when it is drawn.
                continue
            corners.append([[self._log_mse_of(tiles, channels, snr_db) for snr_db in SNRS_DB] for channels in self._channels])
        mean = torch.tensor(corners).reshape(-1, 2, len(SNRS_DB)).mean(0)
        return mean - (mean[0, 0] + mean[-1, -1]) / 2

    @torch.no_grad()
    def _log_mse_of(self, tiles: Tensor, channels: int, snr_db: float) -> Tensor:
        """The logarithm of the MSE of tiles (N,3,h,w) over noise alone, ()."""
        tiles = tiles.to(self._codec.device)
        count = len(tiles)
        state = ChannelState.awgn(torch.full((count,), snr_db))
        images = tiles.to(self._codec.dtype, memory_format=torch.channels_last)
        sent = torch.full((count,), channels)
        decoded = CodecPath(self._codec)(images, sent, state, ChannelRecipe(), Draws(0, range(count)))
        return (decoded.clamp(0, 1) - tiles).square().mean().cpu().clamp(min=LEAST_MSE).log()

    def state_dict(self) -> dict[str, Any]:
        return {"log_mse": self._log_mse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._log_mse.copy_(state["log_mse"])


def _tiles(image: Tensor) -> Tensor:
    """Every second tile of an image (1,3,H,W), as on a chessboard, or every one of a few: (N,3,h,w), h and w at most `TILE`."""
    rows, columns = (_starts(side) for side in image.shape[2:])
    height, width = (min(TILE, side) for side in image.shape[2:])
    step = 1 if len(rows) * len(columns) <= FEW_TILES else 2
    places = [(y, x) for i, y in enumerate(rows) for j, x in enumerate(columns) if (i + j) % step == 0]
    return torch.cat([image[..., y : y + height, x : x + width] for y, x in places])


def _starts(side: int) -> list[int]:
    """Where tiles begin, from one end of a side to the other; a single one is in the middle."""
    count, room = side // TILE, max(0, side - TILE)
    return [index * room // (count - 1) for index in range(count)] if count > 1 else [room // 2]
