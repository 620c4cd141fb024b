# SPDX-License-Identifier: GPL-3.0-or-later
"""From a downloaded file to an image as it is stored: checked, upright, resized, encoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import one_line
from ...images import _as_rgb
from ...symbols import check_image_size
from .rejection import Rejected

#: The list's rotations, counterclockwise, in degrees.
_ROTATIONS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Converted:
    """An encoded image, with its size in pixels."""

    data: bytes
    width: int
    height: int


def convert(data: bytes, rotation: int, min_side: int, resize: int, format: str, quality: int) -> Converted:
    """Decodes, rotates, resizes and encodes one image. Raises `Rejected` where it cannot be used.

    data      the file as downloaded
    rotation  degrees counterclockwise that the list says to rotate the stored pixels by; 0 where it says nothing
    min_side  pixels: the least shorter side, before resizing
    resize    pixels: the longer side is reduced to this; 0 keeps the size
    format    jpg, webp or png
    quality   of JPEG and WebP, 1 to 100
    """
    image = _upright(data, rotation, min_side)
    if resize and max(image.size) > resize:
        scale = resize / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if format == "jpg":
        # Full chroma resolution: the images are compared with what a codec makes of them, in RGB.
        image.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    elif format == "webp":
        image.save(file, "WEBP", quality=quality)
    else:
        image.save(file, "PNG")
    return Converted(file.getvalue(), *image.size)


def _upright(data: bytes, rotation: int, min_side: int) -> Image.Image:
    """The whole image as RGB.

    The list's rotation and the EXIF orientation describe the same turn: the author's orientation, relative to the stored pixels.
    The list's is used where it has one, EXIF's otherwise, and never both.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Before the pixels are decoded: a small file can claim an enormous image.
            if min(image.size) < min_side:
                raise Rejected("too small", f"{image.width}×{image.height} pixels")
            try:
                check_image_size(*image.size)
            except ValueError:
                raise Rejected("too large", f"{image.width}×{image.height} pixels") from None
            image.load()
            turned = image.transpose(_ROTATIONS[rotation]) if rotation else ImageOps.exif_transpose(image)
            return Image.fromarray(_as_rgb(turned))
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise Rejected("damaged", "not an image") from None
    except Image.DecompressionBombError:
        raise Rejected("too large", "a decompression bomb") from None
    except Exception as error:
        # Damaged files make Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, …
        raise Rejected("damaged", one_line(error)) from None
