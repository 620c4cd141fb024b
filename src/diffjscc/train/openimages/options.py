# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be prepared, and how fast."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from ...symbols import MIN_SIDE

#: Where Open Images publishes its lists. Version 7 uses the image lists of 2018-04.
LISTS = "https://storage.googleapis.com/openimages/2018_04"
#: The copy of the images that the Common Visual Data Foundation hosts: at most 1024 pixels on the longer side.
BUCKET = "https://open-images-dataset.s3.amazonaws.com"

#: The file name of each split's list.
LIST_NAMES = {
    "train": "train-images-boxable-with-rotation.csv",
    "validation": "validation-images-with-rotation.csv",
    "test": "test-images-with-rotation.csv",
}
FORMATS = ("jpg", "webp", "png")

#: Options that say how to work. All others decide what comes out.
_MANNER = ("workers", "timeout", "retries", "backoff")


@dataclass(frozen=True)
class Options:
    """The options of `prepare`. Raises ValueError for values that are out of range.

    split       train, validation or test
    count       images wanted; None for all of the split
    min_side    pixels: images whose shorter side, as downloaded, is below this are skipped
    resize      pixels: the longer side is reduced to this, and never enlarged; 0 keeps the size
    format      jpg, webp or png
    quality     of JPEG and WebP, 1 to 100
    shard_size  images per shard
    seed        of the random order in which images are taken from the list
    lists       address or folder that holds the list of the split, or the .csv file itself
    bucket      address of the images: BUCKET/SPLIT/ID.jpg
    originals   download the authors' originals from OriginalURL instead of the bucket's copies
    workers     images in preparation at once
    timeout     seconds to wait for a connection and for each piece of data; an image may take four times as long in all
    retries     further attempts after a failed one
    backoff     seconds before the first further attempt; doubled for each one after it, with jitter
    """

    split: str = "train"
    count: int | None = None
    min_side: int = 512
    resize: int = 768
    format: str = "jpg"
    quality: int = 95
    shard_size: int = 1000
    seed: int = 0
    lists: str = LISTS
    bucket: str = BUCKET
    originals: bool = False
    workers: int = 8
    timeout: float = 30.0
    retries: int = 5
    backoff: float = 0.5

    def __post_init__(self):
        for name, choices in (("split", tuple(LIST_NAMES)), ("format", FORMATS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} '{getattr(self, name)}' is not one of {', '.join(choices)}")
        if self.count is not None:
            _check_range("count", self.count, 1, math.inf)
        _check_range("min-side", self.min_side, MIN_SIDE, 65535)
        if self.resize != 0:
            _check_range("resize", self.resize, MIN_SIDE, 16383, " (or 0 to keep the size)")
        _check_range("quality", self.quality, 1, 100)
        _check_range("shard-size", self.shard_size, 1, 1_000_000)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("workers", self.workers, 1, 256)
        _check_range("timeout", self.timeout, 0.1, 3600)
        _check_range("retries", self.retries, 0, 100)
        _check_range("backoff", self.backoff, 0, 60)
        for name in ("lists", "bucket"):
            object.__setattr__(self, name, str(getattr(self, name)).rstrip("/"))
        if not is_address(self.bucket):
            raise ValueError(f"bucket '{self.bucket}' is not an address: it must begin with https:// or http://")
        if not is_address(self.lists):
            if "://" in self.lists or not Path(self.lists).exists():
                raise ValueError(f"lists '{self.lists}' is neither an https:// or http:// address nor a folder or file that exists")
            # Absolute, so that the command can be repeated from another working folder.
            object.__setattr__(self, "lists", str(Path(self.lists).resolve()))

    def identity(self) -> dict:
        """The options that decide what comes out, for the manifest: a folder is continued with the same ones only."""
        return {name: value for name, value in asdict(self).items() if name not in _MANNER}


def is_address(text: str) -> bool:
    """Whether ``text`` is an HTTP address with a host."""
    scheme, separator, rest = text.partition("://")
    return scheme in ("http", "https") and bool(separator) and bool(rest.partition("/")[0])


def _check_range(name: str, value: float, low: float, high: float, hint: str = "") -> None:
    if not low <= value <= high:
        expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise ValueError(f"{name} {value} is out of range: give {expected}{hint}")
