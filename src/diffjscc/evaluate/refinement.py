# SPDX-License-Identifier: GPL-3.0-or-later
"""Distortion and realism before and after refinement, averaged over images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..channel import transmit
from ..codec import Codec
from ..images import read_image, to_pixels, to_tensor
from ..metrics import ms_ssim, psnr
from .learned import fid, if_available, load_inception, load_lpips, patches
from .niqe import niqe
from .realism import SlicedWasserstein, flat_deviation

if TYPE_CHECKING:
    from ..refine.pipeline import DiffJSCCPipeline


@dataclass(frozen=True)
class Score:
    """Means over images of one stage: "original", "initial" or "refined".

    psnr_db, ms_ssim   distortion
    swd                sliced Wasserstein distances of the two finest octaves, grey levels; see `realism`
    niqe               see `niqe`; the closer to the value of the originals, the better
    flat               standard deviation in the originals' smoothest blocks, relative to that of the originals
    lpips, fid         NaN where the weights of their networks are not available
    """

    stage: str
    rate: Fraction | None
    psnr_db: float
    ms_ssim: float
    swd: tuple[float, ...]
    niqe: float
    flat: float
    lpips: float
    fid: float


class Scorer:
    """Collects images and their originals, float (3, H, W) in [0, 1], and scores them rounded to 8 bits, as in a file."""

    def __init__(self, stage: str, rate: Fraction | None):
        self.stage, self.rate = stage, rate
        self._swd = SlicedWasserstein()
        self._lpips = if_available("LPIPS", load_lpips)
        self._inception = if_available("FID", load_inception)
        self._features: list[tuple[Tensor, Tensor]] = []
        self._rows: list[tuple[float, ...]] = []
        self._flat: list[tuple[float, float]] = []

    def add(self, image: Tensor, original: Tensor) -> None:
        pixels = to_pixels(image)
        image = to_tensor(pixels)
        self._swd.add(image, original)
        self._flat.append(flat_deviation(image, original))
        lpips = math.nan if self._lpips is None else self._lpips(image, original)
        if self._inception is not None and len(patches(image)):
            with torch.inference_mode():
                self._features.append((self._inception(patches(image)), self._inception(patches(original))))
        self._rows.append((psnr(image, original), ms_ssim(image, original), niqe(pixels), lpips))

    def score(self) -> Score:
        psnr_db, similarity, naturalness, lpips = (sum(column) / len(self._rows) for column in zip(*self._rows))
        given, wanted = (sum(column) for column in zip(*self._flat))
        distance = fid(*map(torch.cat, zip(*self._features))) if self._features else math.nan
        return Score(
            self.stage,
            self.rate,
            psnr_db,
            similarity,
            self._swd.distances(),
            naturalness,
            given / max(wanted, 1e-6),
            lpips,
            distance,
        )


def score_refiner(
    codec: Codec,
    refiner: DiffJSCCPipeline,
    paths: Sequence[Path],
    snr_db: float,
    rates: Sequence[Fraction] | None = None,
    seed: int = 0,
    **options: Any,
) -> Iterator[Score]:
    """Sends every image at every rate over AWGN, and scores originals, initial reconstructions and refined images.

    ``options`` are those of the refiner's call. The noise of an image has the same seed at every rate.
    """
    images = [to_tensor(read_image(path)) for path in paths]
    original = Scorer("original", None)
    for image in images:
        original.add(image, image)
    yield original.score()
    for rate in rates or codec.rates:
        before, after = Scorer("initial", rate), Scorer("refined", rate)
        for index, image in enumerate(images):
            symbols = codec.encode(image, snr_db, rate)
            initial = codec.decode(transmit(symbols, snr_db, seed=seed + index), symbols.header)
            generator = torch.Generator().manual_seed(seed + index)
            (refined,) = refiner(initial, snr_db, generator=generator, output_type="pt", **options).images
            before.add(initial.cpu(), image)
            after.add(refined.cpu(), image)
        yield before.score()
        yield after.score()


def markdown_scores(scores: Sequence[Score]) -> str:
    """A Markdown table, one row per stage and rate; columns without any value are left out."""
    columns: list[tuple[str, Callable[[Score], str]]] = [
        ("rate", lambda s: str(s.rate or "")),
        ("stage", lambda s: s.stage),
        ("PSNR, dB", lambda s: f"{s.psnr_db:.2f}"),
        ("MS-SSIM", lambda s: f"{s.ms_ssim:.3f}"),
        ("SWD finest", lambda s: f"{s.swd[0]:.2f}"),
        ("SWD next", lambda s: f"{s.swd[1]:.2f}"),
        ("NIQE", lambda s: f"{s.niqe:.2f}"),
        ("flat", lambda s: f"{s.flat:.2f}"),
    ]
    if not all(math.isnan(s.lpips) for s in scores):
        columns.append(("LPIPS", lambda s: f"{s.lpips:.3f}"))
    if not all(math.isnan(s.fid) for s in scores):
        columns.append(("FID", lambda s: f"{s.fid:.1f}"))
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(write(score) for _, write in columns) + " |" for score in scores]
    return "\n".join(lines)
