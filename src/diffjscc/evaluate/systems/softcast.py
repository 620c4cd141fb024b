# SPDX-License-Identifier: GPL-3.0-or-later
"""SoftCast (Jakubczak and Katabi, 2011), the classic analog image code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import extra
from ...fields import Fields
from .base import Sent, check_transmission
from .image_codecs.base import pad_even
from .transports import carry

#: BT.601 luma and colour differences, scaled to be orthonormal enough that error in them is error in RGB.
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@dataclass(frozen=True, kw_only=True)
class SoftCast(Fields):
    """image ─► Y, Cb, Cr ─► DCT of each ─► chunks ─► the strongest, scaled by λ^(−1/4) ─► channel ─► linear least squares ─► image

    chunks  on a side of each plane; λ is the variance of a chunk

    A complex symbol carries two coefficients. Which chunks are sent, their variances and means cost nothing here: the side
    information is free, which flatters SoftCast. Images are padded to multiples of the chunks.
    """

    name: ClassVar[str] = "softcast"
    rates: ClassVar[Sequence[Fraction] | None] = None

    chunks: int = 32

    def __post_init__(self):
        super().__post_init__()
        self.check("chunks", 1 <= self.chunks <= 256, "from 1 to 256")

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """As `System.send`."""
        check_transmission(image, budget, snr_db, channel)
        height, width = image.shape[-2:]
        pixels = pad_even(image.movedim(0, -1).double().cpu().numpy(), self.chunks, self.chunks)
        values = self._split(pixels)
        mean = values.mean(axis=1, keepdims=True)
        variance = values.var(axis=1)
        # A chunk without variance is known from its mean.
        kept = min(2 * budget // values.shape[1], int((variance > 1e-12).sum()))
        estimate = np.broadcast_to(mean, values.shape).copy()
        used = 0
        if kept:
            strongest = np.argsort(-variance, kind="stable")[:kept]
            # Twice the mean power of the coefficients is that of the symbols: 1.
            scale = variance[strongest] ** -0.25
            scale *= np.sqrt(0.5 / np.mean(scale**2 * variance[strongest]))
            coefficients = ((values[strongest] - mean[strongest]) * scale[:, None]).ravel()
            symbols = np.pad(coefficients, (0, len(coefficients) % 2)).view(np.complex128)
            used = len(symbols)
            reception = carry(symbols.astype(np.complex64), image, budget, channel, snr_db, seed)
            lost = ~np.isfinite(reception.values) | ~np.isfinite(reception.noise_var)
            received = np.where(lost, 0, reception.values).astype(np.complex128).view(np.float64)[: len(coefficients)]
            noise = (np.where(lost, np.inf, reception.noise_var).astype(np.float64) / 2).repeat(2)[: len(coefficients)]
            power = (scale**2 * variance[strongest])[:, None]
            weights = power / (power + noise.reshape(kept, -1)) / scale[:, None]
            estimate[strongest] += received.reshape(kept, -1) * weights
        decoded = self._join(estimate, *pixels.shape[:2])[:height, :width]
        details: dict[str, str | int | float] = {"chunks": kept, "of": len(values)}
        return Sent(torch.from_numpy(decoded.clip(0, 1)).movedim(-1, 0).float().contiguous(), used, details)

    def _split(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) in [0, 1] → coefficients (chunks² · 3, values of a chunk)."""
        with extra("evaluate", "SoftCast"):
            from scipy.fft import dctn
        height, width, _ = pixels.shape
        planes = dctn((pixels - 0.5) @ TO_YCC.T, axes=(0, 1), norm="ortho")
        grid = planes.reshape(self.chunks, height // self.chunks, self.chunks, width // self.chunks, 3)
        return grid.transpose(0, 2, 4, 1, 3).reshape(self.chunks * self.chunks * 3, -1)

    def _join(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """The inverse of `_split`."""
        from scipy.fft import idctn

        grid = values.reshape(self.chunks, self.chunks, 3, height // self.chunks, width // self.chunks)
        planes = grid.transpose(0, 3, 1, 4, 2).reshape(height, width, 3)
        return idctn(planes, axes=(0, 1), norm="ortho") @ np.linalg.inv(TO_YCC).T + 0.5
