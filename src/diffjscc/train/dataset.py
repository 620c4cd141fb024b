# SPDX-License-Identifier: GPL-3.0-or-later
"""Training images: folders and shards, a fixed split, and random crops that depend on the seed and their number alone."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import one_line
from ..images import SUFFIXES, read_image, to_tensor
from ..symbols import BLOCK

logger = logging.getLogger(__name__)

#: One image in this many, by sorted name, is held out for validation.
HELD_OUT_EVERY = 40

#: Share of the images that may be unreadable before a training gives up.
MAX_UNREADABLE = 0.1

#: Share of the machine's memory that decoded images may take.
CACHE_SHARE = 0.2

#: Held-out images are cut to this many pixels a side: measuring must not take long.
HELD_OUT_SIDE = 1024

Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageFile:
    """Where one image is: a file, or a range of bytes of a shard.

    name    by which images are sorted and split: the path in its folder, in a shard behind the shard's
    path    of the file or shard
    offset  of its first byte
    size    bytes; in a shard, those of this member
    """

    name: str
    path: Path
    offset: int
    size: int

    @property
    def in_shard(self) -> bool:
        return self.path.suffix == ".tar"

    def read(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises ValueError where it is not a whole image."""
        if not self.in_shard:
            return read_image(self.path)
        try:
            with open(self.path, "rb") as shard:
                shard.seek(self.offset)
                content = io.BytesIO(shard.read(self.size))
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({one_line(error)})") from None
        return read_image(content, name=f"{self.path}/{Path(self.name).name}")


def find_files(folders: Sequence[str | Path]) -> list[ImageFile]:
    """Every image in the folders' trees and in the shards (.tar, as WebDataset writes them) among them, by sorted name.

    Hidden files and folders are left out. Raises ValueError for a folder that does not exist or holds no image, and for a
    damaged shard.
    """
    if not folders:
        raise ValueError("no folder of images was given")
    files = []
    for number, folder in enumerate(map(Path, folders)):
        if not folder.is_dir():
            raise ValueError(f"{folder}: {'a file: give its folder' if folder.exists() else 'no such folder of images'}")
        # Images of two folders may have the same name.
        prefix = f"{number}:" if len(folders) > 1 else ""
        found = [file for path in _files_in(folder) for file in _images_at(path, prefix + path.relative_to(folder).as_posix())]
        if not found:
            raise ValueError(f"{folder}: no images and no shards in this folder (looked for {', '.join(SUFFIXES)} and .tar)")
        files += found
    return sorted(files, key=lambda file: (file.name, file.offset))


def _files_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return found


def _images_at(path: Path, name: str) -> list[ImageFile]:
    """The image in a file, or those in a shard."""
    try:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            return [ImageFile(name, path, 0, path.stat().st_size)]
        if path.suffix != ".tar" or not path.is_file():
            return []
        with tarfile.open(path, "r:") as shard:
            members = [m for m in shard if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES]
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path}: cannot be read, or is a damaged shard ({one_line(error)}): mend it or remove it") from None
    return [ImageFile(f"{name}/{m.name}", path, m.offset_data, m.size) for m in members]


def fingerprint(files: Sequence[ImageFile]) -> str:
    """A number that changes with the images' names and sizes, and not with where they are kept."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def split(files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """(training, held out): the same for the same names. Raises ValueError for fewer than two images."""
    if len(files) < 2:
        raise ValueError(
            f"{files[0].path if files else 'no image'}: training needs at least two images, one of them to be held out"
        )
    return [f for i, f in enumerate(files) if i % HELD_OUT_EVERY], list(files[::HELD_OUT_EVERY])


class Unreadable(dict[str, str]):
    """Images that were passed over, by name, with what was wrong; logs each, and raises ValueError when they are too many.

    total  images in all
    """

    def __init__(self, total: int):
        super().__init__()
        self._limit, self._total = max(1, int(MAX_UNREADABLE * total)), total

    def add(self, file: ImageFile, error: ValueError) -> None:
        self[file.name] = one_line(error)
        logger.warning("image passed over: %s", self[file.name])
        if len(self) > self._limit:
            raise ValueError(f"{len(self)} of {self._total} images cannot be read, the last one: {self[file.name]}")


def read_held_out(files: Sequence[ImageFile], count: int, unreadable: Unreadable) -> list[Tensor]:
    """The first ``count`` readable images of those held out, cut to multiples of 16: (1, 3, H, W) in [0, 1].

    Raises ValueError where none can be read.
    """
    images: list[Tensor] = []
    for file in files:
        if len(images) == count:
            break
        try:
            images.append(whole_blocks(file))
        except ValueError as error:
            unreadable.add(file, error)
    if not images:
        raise ValueError(f"no held-out image can be read: {next(iter(unreadable.values()))}")
    return images


def whole_blocks(file: ImageFile, largest: int = HELD_OUT_SIDE) -> Tensor:
    """The image in a file, cut to multiples of 16 and to ``largest`` pixels a side: (1, 3, H, W) in [0, 1]."""
    pixels = file.read()
    height, width = (min(side, largest) // BLOCK * BLOCK for side in pixels.shape[:2])
    return to_tensor(pixels[:height, :width])[None]


class RandomCrops:
    """Square crops, flipped at random; crop ``number`` depends on the seed and its number alone.

    files       to draw from, all alike
    size        side of a crop, pixels
    seed        of what is drawn
    unreadable  where images are listed that cannot be read
    cache_bytes decoded images are kept in memory up to so many bytes; the others are read again when their turn comes

    Images that cannot be read, or are smaller than a crop, are passed over. Raises ValueError where no image has a crop, or
    too many cannot be read. May be called by several threads.
    """

    def __init__(self, files: Sequence[ImageFile], size: int, seed: int, unreadable: Unreadable, cache_bytes: float | None = None):
        self.files, self.size, self.seed, self.unreadable = files, size, seed, unreadable
        self._room = CACHE_SHARE * _memory_bytes() if cache_bytes is None else cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        self._unfit: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, numbers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Crops by number: float32 (N, 3, size, size) in [0, 1], and the index in ``files`` of each."""
        drawn = [self._crop(number) for number in numbers]
        return torch.stack([to_tensor(crop) for crop, _ in drawn]), [index for _, index in drawn]

    def _crop(self, number: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng((self.seed, number))
        while True:
            index = int(random.integers(len(self.files)))
            place, flip = random.random(2), random.random() < 0.5
            image = self._image(index)
            if image is None:
                self._check_left()
                continue
            y, x = (int(share * (side - self.size + 1)) for share, side in zip(place, image.shape[:2]))
            crop = image[y : y + self.size, x : x + self.size]
            return (crop[:, ::-1] if flip else crop), index

    def _image(self, index: int) -> np.ndarray | None:
        """The image, or None where it has no crop."""
        if index in self._cache:
            return self._cache[index]
        if index in self._unfit:
            return None
        try:
            image = self.files[index].read()
        except ValueError as error:
            self._pass_over(index, error)
            return None
        if min(image.shape[:2]) < self.size:
            self._pass_over(index)
            return None
        with self._lock:
            if image.nbytes <= self._room and index not in self._cache:
                self._room -= image.nbytes
                self._cache[index] = image
        return image

    def _pass_over(self, index: int, error: ValueError | None = None) -> None:
        with self._lock:
            new = index not in self._unfit
            self._unfit.add(index)
            if new and error is not None:
                self.unreadable.add(self.files[index], error)

    def _check_left(self) -> None:
        """Raises ValueError where every image was passed over."""
        if len(self._unfit) == len(self.files):
            reason = f"; {next(iter(self.unreadable.values()))}" if self.unreadable else ""
            raise ValueError(f"no training image has a crop of {self.size} pixels: use a smaller crop, or larger images{reason}")


def _memory_bytes() -> float:
    """Of this machine; where it does not say, what a small one has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8e9


class Prefetch(Generic[Result]):
    """Calls ``function(step)`` for the next steps in threads, ahead of who asks for them in order.

    function  to be called, by several threads
    end       the step that is not asked for any more
    threads   how many; 0: it is called when its result is asked for
    """

    def __init__(self, function: Callable[[int], Result], end: int, threads: int):
        self._function, self._end, self._ahead = function, end, threads + 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="diffjscc-crops") if threads else None
        self._coming: dict[int, Future[Result]] = {}

    def __call__(self, step: int) -> Result:
        if self._pool is None:
            return self._function(step)
        for number in range(step, min(step + 1 + self._ahead, self._end)):
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self._function, number)
        return self._coming.pop(step).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def spare_threads(device: torch.device) -> int:
    """Threads for decoding images, at most 8: as many cores as a training on this device leaves idle.

    On a CPU one more than there are cores would slow each parallel region of the computation down.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(0, cores - torch.get_num_threads()) if device.type == "cpu" else max(1, cores // 2))
