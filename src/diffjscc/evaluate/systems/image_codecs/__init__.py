# SPDX-License-Identifier: GPL-3.0-or-later
"""Image codecs for `separate` and `capacity`: what fits into a number of bytes, and what comes back from damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ....fields import nearest
from .base import Encoded, ImageCodec, encode_within
from .bpg import Bpg
from .jpeg2000 import Jpeg2000
from .video import Av1, Hevc

__all__ = ["IMAGE_CODECS", "Encoded", "ImageCodec", "encode_within", "find_image_codec"]

IMAGE_CODECS: dict[str, Callable[[], ImageCodec]] = {"hevc": Hevc, "av1": Av1, "jpeg2000": Jpeg2000, "bpg": Bpg}


@lru_cache(maxsize=8)
def find_image_codec(name: str) -> ImageCodec:
    """An image codec by name. Raises ValueError where there is none of this name, or what it needs is not installed."""
    if name not in IMAGE_CODECS:
        raise ValueError(
            f"no image codec is called '{name}'{nearest(name, list(IMAGE_CODECS))}; there are {', '.join(IMAGE_CODECS)}"
        )
    return IMAGE_CODECS[name]()
