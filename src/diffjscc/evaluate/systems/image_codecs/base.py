# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of image codecs, and the search for the finest setting that fits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

#: Encoded images that a process keeps: all settings that a sweep over rates and SNRs tries for a few images.
KEPT = 256

#: Grey of an image of which nothing can be decoded.
MID_GREY = 128


class ImageCodec(ABC):
    """Images to bytes and back, with one setting of quality.

    name      in sweeps
    coarsest  the setting of the smallest files; settings run from there to ``finest``, in either direction
    """

    name: ClassVar[str]
    coarsest: ClassVar[int]
    finest: ClassVar[int]

    @abstractmethod
    def encode(self, pixels: np.ndarray, setting: int) -> bytes:
        """uint8 RGB (H, W, 3) to the bytes that must be sent."""

    @abstractmethod
    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """Undamaged bytes to uint8 RGB (H, W, 3)."""

    def salvage(self, data: bytes, height: int, width: int) -> np.ndarray | None:
        """What can be decoded of bytes that end early, uint8 RGB (H, W, 3), its holes filled; None where that is nothing."""
        return None

    def settings(self) -> range:
        """Coarsest first."""
        step = 1 if self.finest > self.coarsest else -1
        return range(self.coarsest, self.finest + step, step)


@dataclass(frozen=True)
class Encoded:
    """An image in as many bytes as fit, and the codec's setting for it."""

    data: bytes
    setting: int


def encode_within(codec: ImageCodec, pixels: np.ndarray, limit: int) -> Encoded | None:
    """The image at the finest setting with at most ``limit`` bytes; None where the coarsest already has more.

    A binary search, which takes sizes to grow with every step towards finer settings. Where they do not, a still finer setting
    may fit too; what is returned always does. Encoded images are kept for the next search in the same image.
    """
    settings = codec.settings()
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()

    def data(index: int) -> bytes:
        key = codec.name, digest, settings[index]
        if key not in _encoded:
            _encoded[key] = codec.encode(pixels, settings[index])
            while len(_encoded) > KEPT:
                _encoded.popitem(last=False)
        _encoded.move_to_end(key)
        return _encoded[key]

    if len(data(0)) > limit:
        return None
    low, high = 0, len(settings)
    while high - low > 1:
        middle = (low + high) // 2
        if len(data(middle)) <= limit:
            low = middle
        else:
            high = middle
    return Encoded(data(low), settings[low])


_encoded: OrderedDict[tuple[str, bytes, int], bytes] = OrderedDict()


def salvaged(codec: ImageCodec, data: bytes, height: int, width: int) -> tuple[np.ndarray, bool]:
    """What a viewer sees of an image whose bytes end early: uint8 RGB (H, W, 3), and whether any of it could be decoded.

    Where nothing can be decoded, that is an even mid-grey.
    """
    pixels = codec.salvage(data, height, width) if data else None
    if pixels is None:
        return np.full((height, width, 3), MID_GREY, np.uint8), False
    return pixels, True


def pad_even(pixels: np.ndarray, multiple: int, least: int) -> np.ndarray:
    """(H, W, 3) with both sides grown to a multiple, and to at least so much, by repeating the last row and column."""
    height, width = pixels.shape[:2]
    wanted = [max(least, -(-side // multiple) * multiple) for side in (height, width)]
    return np.pad(pixels, ((0, wanted[0] - height), (0, wanted[1] - width), (0, 0)), mode="edge")
