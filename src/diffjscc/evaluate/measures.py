# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of a sweep by name: what each adds to a row of its table."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch

from ..images import to_tensor
from ..metrics import ms_ssim, psnr
from .learned import Measure, if_available, load_dists, load_inception, load_lpips, patches
from .niqe import niqe
from .realism import SlicedWasserstein

#: Name in sweep files → columns of the table.
METRICS: dict[str, tuple[str, ...]] = {
    "psnr": ("psnr_db",),
    "ms-ssim": ("ms_ssim",),
    "lpips-alex": ("lpips_alex",),
    "lpips-vgg": ("lpips_vgg",),
    "dists": ("dists",),
    "swd": ("swd_finest", "swd_next"),
    # What counts is how near it is to the value of the original.
    "niqe": ("niqe", "niqe_original"),
    # These compare sets of images: their values are in the summary.
    "fid": (),
    "kid": (),
}

#: Metrics of the summary's points: they compare all images of a point with their originals.
SET_METRICS = ("fid", "kid")


def columns(metrics: Sequence[str]) -> list[str]:
    """Columns of a row."""
    return [column for metric in metrics for column in METRICS[metric]]


class Measures:
    """Measures received images, uint8 RGB (H, W, 3), as they would be in a file.

    metrics  names of `METRICS`
    weights  folder of the weights of learned metrics, see `learned.find_weights`

    ``missing`` has one line for each metric that cannot be measured here: its columns are NaN.
    """

    def __init__(self, metrics: Sequence[str], weights: str = ""):
        self.metrics = tuple(metrics)
        self.missing: list[str] = []
        self._learned: dict[str, Measure | None] = {}
        loads = {
            "lpips-alex": ("LPIPS (AlexNet)", lambda: load_lpips("alex", weights)),
            "lpips-vgg": ("LPIPS (VGG)", lambda: load_lpips("vgg", weights)),
            "dists": ("DISTS", lambda: load_dists(weights)),
        }
        for metric, (name, load) in loads.items():
            if metric in self.metrics:
                self._learned[metric] = if_available(name, load, self.missing.append)
        self._original: np.ndarray | None = None
        self._niqe = math.nan
        self._inception = None
        sets = [metric.upper() for metric in SET_METRICS if metric in self.metrics]
        if sets:
            self._inception = if_available(" and no ".join(sets), lambda: load_inception(weights), self.missing.append)

    def measure(self, pixels: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Columns of a row."""
        image, wanted = to_tensor(pixels), to_tensor(original)
        values: dict[str, float] = {}
        for metric in self.metrics:
            if metric == "psnr":
                values["psnr_db"] = psnr(image, wanted)
            elif metric == "ms-ssim":
                values["ms_ssim"] = ms_ssim(image, wanted)
            elif metric == "swd":
                # Each image against its own original, so that a row is a number by itself.
                distance = SlicedWasserstein()
                distance.add(image, wanted)
                values["swd_finest"], values["swd_next"] = distance.distances()
            elif metric == "niqe":
                values["niqe"], values["niqe_original"] = niqe(pixels), self._niqe_of(original)
            elif metric in self._learned:
                learned = self._learned[metric]
                values[METRICS[metric][0]] = math.nan if learned is None else learned(image, wanted)
        return values

    def _niqe_of(self, original: np.ndarray) -> float:
        """Computed once for an image that is measured many times in a row."""
        if self._original is not original:
            self._original, self._niqe = original, niqe(original)
        return self._niqe

    def features(self, pixels: np.ndarray) -> bytes | None:
        """Inception's features of the image's patches, float32 (P, 2048), as NumPy writes a file; None where not measured."""
        if self._inception is None:
            return None
        cut = patches(to_tensor(pixels))
        with torch.inference_mode():
            # In small batches: a thread's memory stays small, and sums do not depend on how many patches an image has.
            parts = [self._inception(part) for part in cut.split(4)]
        features = torch.cat(parts).numpy().astype(np.float32) if parts and len(cut) else np.zeros((0, 2048), np.float32)
        file = io.BytesIO()
        np.save(file, features)
        return file.getvalue()
