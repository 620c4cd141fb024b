# SPDX-License-Identifier: GPL-3.0-or-later
"""How realistic a set of images is compared with its originals, measured without the weights of any network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Side of the patches that are compared, pixels at their level of the pyramid.
PATCH = 7

#: Patches drawn from each image and level.
PATCHES = 1024

#: Random directions that patches are projected on.
DIRECTIONS = 512

#: Side of the blocks of which the flattest are measured, pixels.
FLAT_BLOCK = 16


def laplacian_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """An image's content in each octave of spatial frequency, finest first (Burt and Adelson, 1983), without the coarse rest.

    image (C, H, W) → [(C, H, W), (C, H/2, W/2), …]
    """
    octaves = []
    fine = image[None]
    for _ in range(levels):
        coarse = _binomial(fine)[..., ::2, ::2]
        octaves.append((fine - F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False))[0])
        fine = coarse
    return octaves


def _binomial(image: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(taps, taps).expand(image.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=image.shape[1])


class SlicedWasserstein:
    """Sliced Wasserstein distance between the patches of two sets of images, by octave (Karras et al., ICLR 2018).

    7×7×3 patches of each Laplacian level are projected on random directions; along each direction, the distance is the mean
    absolute difference of the sorted projections, in grey levels of 255. Unlike Karras et al. we do not normalise the contrast
    of each set, because blur would then cost nothing. Both sets are sampled at the same positions.
    """

    def __init__(self, levels: int = 2, seed: int = 0):
        self.levels = levels
        self._random = torch.Generator().manual_seed(seed)
        size = 3 * PATCH * PATCH
        directions = torch.randn(size, DIRECTIONS, generator=self._random)
        self._directions = directions / directions.norm(dim=0)
        self._given: list[list[Tensor]] = [[] for _ in range(levels)]
        self._wanted: list[list[Tensor]] = [[] for _ in range(levels)]

    def add(self, image: Tensor, original: Tensor) -> None:
        """An image and its original, float (3, H, W) in [0, 1]."""
        pyramids = (laplacian_pyramid(p.float().cpu() * 255, self.levels) for p in (image, original))
        for level, (given, wanted) in enumerate(zip(*pyramids)):
            tops, lefts = (torch.randint(side - PATCH + 1, (PATCHES,), generator=self._random) for side in given.shape[1:])
            self._given[level].append(self._project(given, tops, lefts))
            self._wanted[level].append(self._project(wanted, tops, lefts))

    def distances(self) -> tuple[float, ...]:
        """Grey levels of 255, finest octave first."""
        return tuple(
            (torch.cat(given).sort(dim=0).values - torch.cat(wanted).sort(dim=0).values).abs().mean().item()
            for given, wanted in zip(self._given, self._wanted)
        )

    def _project(self, octave: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
        rows = tops[:, None, None] + torch.arange(PATCH)[:, None]
        columns = lefts[:, None, None] + torch.arange(PATCH)
        patches = octave[:, rows, columns].transpose(0, 1).flatten(1)
        return patches @ self._directions


def flat_deviation(image: Tensor, original: Tensor, share: float = 0.1) -> tuple[float, float]:
    """Mean standard deviation of the image, and of its original, in the original's smoothest blocks, grey levels of 255.

    Both float (3, H, W) in [0, 1]; the smoothest ``share`` of the 16×16 blocks is measured. A refiner that adds no texture to
    flat regions keeps the first value close to the second.
    """
    given, wanted = (_block_deviation(p.float().cpu() * 255) for p in (image, original))
    smooth = wanted.argsort()[: max(1, round(share * len(wanted)))]
    return given[smooth].mean().item(), wanted[smooth].mean().item()


def _block_deviation(image: Tensor) -> Tensor:
    grey = image.mean(0, keepdim=True)[None]
    return F.unfold(grey, FLAT_BLOCK, stride=FLAT_BLOCK)[0].std(dim=0)
