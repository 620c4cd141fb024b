# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixels to bytes and back, for the network. The bytes are not trusted: nothing is decompressed before its size is known."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import one_line
from .protocol import CHANNELS, check_image

#: JPEG quality of requests, replies and previews, with chroma at full resolution: 40 to 46 dB PSNR on photographs.
JPEG_QUALITY = 95

#: JPEG quality of the thumbnails on the status page.
THUMBNAIL_QUALITY = 80

#: zlib's level for PNG: files a tenth larger than at the default level 6, in a third of the time.
PNG_LEVEL = 1

#: Bytes of a file that are decoded at a time; between them the decoder can be stopped.
READ_BYTES = 4096

#: Seconds of a thread's CPU time after which the decoding of a file is given up: a busy machine does not count. The largest image,
#: 22 megapixels, takes about one.
DECODE_SECONDS = 10.0

#: Scans of a JPEG file. Encoders write 10 to 20; each costs a pass over all pixels, however few bytes it has.
MAX_SCANS = 64


class Abandoned(Exception):
    """Raised in a decoder where nobody waits for the image any more."""


class _Watched(io.BytesIO):
    """A file whose reader is stopped: by ``is_wanted`` returning False, or after `DECODE_SECONDS`."""

    def __init__(self, data: bytes | memoryview, is_wanted: Callable[[], bool]):
        super().__init__(data)
        self._is_wanted, self._end = is_wanted, time.thread_time() + DECODE_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._is_wanted():
            raise Abandoned
        if time.thread_time() > self._end:
            raise ValueError(f"image took more than {DECODE_SECONDS:.0f} s to decode: send it as raw, or in a simpler file")
        return super().read(size)


def check_pixels(pixels: np.ndarray) -> None:
    """Raises ValueError unless pixels are uint8 (H, W, 3)."""
    right = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == CHANNELS
    if not right:
        shown = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {getattr(pixels, 'shape', '')}"
        raise ValueError(f"image is {shown}: expected uint8 (H, W, 3)")


def to_bytes(pixels: np.ndarray, encoding: str) -> bytes | memoryview:
    """uint8 (H, W, 3) → raw RGB rows, a PNG or a JPEG file."""
    check_pixels(pixels)
    if encoding == "raw":
        return np.ascontiguousarray(pixels).data.cast("B")
    file = io.BytesIO()
    options = {"png": {"compress_level": PNG_LEVEL}, "jpeg": {"quality": JPEG_QUALITY, "subsampling": 0}}[encoding]
    Image.fromarray(pixels).save(file, format=encoding.upper(), **options)
    return file.getvalue()


def to_pixels(
    data: bytes | memoryview, width: int, height: int, encoding: str, is_wanted: Callable[[], bool] = lambda: True
) -> np.ndarray:
    """Bytes of a declared size and encoding → uint8 (H, W, 3). Raw pixels are a read-only view of ``data``.

    is_wanted  asked again and again while the file is decoded; `Abandoned` is raised once it returns False

    Raises ValueError where the bytes are not such an image.
    """
    check_image(width, height, encoding, len(data))
    if encoding == "raw":
        return np.frombuffer(data, np.uint8).reshape(height, width, CHANNELS)
    if encoding == "jpeg" and (scans := bytes(data).count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"jpeg image has {scans} scans: at most {MAX_SCANS} are accepted; save it with fewer")
    try:
        with Image.open(_Watched(data, is_wanted), formats=(encoding.upper(),)) as image:
            # Pillow reads this much at a time.
            image.decodermaxblock = READ_BYTES
            if image.size != (width, height):
                claimed = "×".join(map(str, image.size))
                raise ValueError(f"{encoding} image is {claimed}, declared as {width}×{height}: they must agree")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"image is not a {encoding} file: send one, or another encoding") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, EOFError, struct.error, zlib.error, MemoryError) as error:
        raise ValueError(f"{encoding} image is damaged or cut short ({one_line(error)})") from None


def thumbnail(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG of at most ``side`` pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
