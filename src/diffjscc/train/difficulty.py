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
from ..symbols import rate_channels
from .codec_path import receive
from .dataset import ImageFile, whole_blocks
from .draws import Draws

#: SNRs, dB, at which images are measured; between and a little beyond them decibels are linear.
SNRS_DB = (1.0, 13.0)

#: No more than this of an image is measured, pixels a side.
MEASURED_SIDE = 640

#: The least MSE that is told apart from none.
LEAST_MSE = 1e-6


class Difficulty:
    """The mean squared error (MSE) to expect of an image at a rate and an SNR.

    codec  that the training starts from
    files  of the training

    An image is measured when it is drawn for the first time, four times: at the codec's lowest and highest rate, at 1 and
    13 dB. Between these, the logarithm of its error is interpolated.
    """

    def __init__(self, codec: Codec, files: Sequence[ImageFile]):
        self._codec, self._files = codec, files
        self._channels = rate_channels(codec.rates[0]), rate_channels(codec.rates[-1])
        self._log_mse = torch.full((len(files), 2, len(SNRS_DB)), math.nan)

    def __call__(self, indices: list[int], channels: Tensor, snr_db: Tensor) -> Tensor:
        """Expected MSE of the whole images, (N,), on the CPU; indices in ``files``, channels and snr_db (N,)."""
        for index in indices:
            if self._log_mse[index].isnan().any():
                self._log_mse[index] = self._measure(self._files[index])
        low, high = self._channels
        rate = (channels / low).log2() / max(1.0, math.log2(high / low))
        snr = ((snr_db - SNRS_DB[0]) / (SNRS_DB[1] - SNRS_DB[0])).clamp(-0.4, 1.15)
        at_low, at_high = (row[:, 0].lerp(row[:, 1], snr) for row in self._log_mse[indices].unbind(1))
        return at_low.lerp(at_high, rate).exp()

    @torch.no_grad()
    def _measure(self, file: ImageFile) -> Tensor:
        image = whole_blocks(file, MEASURED_SIDE).to(self._codec.device)
        errors = [
            (receive(self._codec, image, channels, snr_db, Draws(0, [0])) - image).square().mean()
            for channels in self._channels
            for snr_db in SNRS_DB
        ]
        return torch.stack(errors).cpu().clamp(min=LEAST_MSE).log().reshape(2, len(SNRS_DB))

    def state_dict(self) -> dict[str, Any]:
        return {"log_mse": self._log_mse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._log_mse.copy_(state["log_mse"])
