# SPDX-License-Identifier: GPL-3.0-or-later
"""Training images: a folder, split into training and held-out files, and random crops by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..images import find_images, read_image, to_tensor

#: One file in this many, by sorted name, is held out for validation.
HELD_OUT_EVERY = 40


def split(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """(training files, held-out files): the same split for the same file names. Raises ValueError for too few images."""
    files = find_images(folder)
    if len(files) < 2:
        raise ValueError(f"{folder}: holds {len(files)} image: training needs at least two")
    held_out = files[::HELD_OUT_EVERY]
    return [f for f in files if f not in set(held_out)], held_out


class RandomCrops:
    """Batches of square crops, flipped at random; batch ``step`` depends on the seed and the step alone.

    Decoded images are kept in memory up to ``cache_bytes``; the others are read again when their turn comes.
    Images smaller than a crop are passed over.
    """

    def __init__(self, files: list[Path], size: int, batch: int, seed: int, cache_bytes: float = 4e9):
        self.files, self.size, self.batch, self.seed = files, size, batch, seed
        self._room = cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        self._too_small: set[int] = set()

    def __call__(self, step: int) -> Tensor:
        """float32 (batch, 3, size, size) in [0, 1]."""
        random = np.random.default_rng((self.seed, step))
        crops: list[Tensor] = []
        while len(crops) < self.batch:
            index = int(random.integers(len(self.files)))
            image = self._image(index)
            y, x = (int(random.integers(max(1, side - self.size + 1))) for side in image.shape[:2])
            flip = random.random() < 0.5
            if min(image.shape[:2]) < self.size:
                self._pass_over(index)
                continue
            crop = image[y : y + self.size, x : x + self.size]
            crops.append(to_tensor(crop[:, ::-1] if flip else crop))
        return torch.stack(crops)

    def _image(self, index: int) -> np.ndarray:
        if index in self._cache:
            return self._cache[index]
        image = read_image(self.files[index])
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._cache[index] = image
        return image

    def _pass_over(self, index: int) -> None:
        self._too_small.add(index)
        if len(self._too_small) == len(self.files):
            raise ValueError(f"every training image is smaller than the crop of {self.size} pixels: use a smaller crop")
