# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in and out: files, uint8 arrays, and the float tensors that the networks speak.

Inside, an image is float32 (3, H, W), RGB in [0, 1]. At the edges it is uint8 (H, W, 3).
"""

from __future__ import annotations

import glob
import os
import secrets
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .symbols import BLOCK, MAX_PIXELS, check_image_size

if TYPE_CHECKING:
    from torch import Tensor

#: Suffixes of the files that count as images in a folder.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(source: str | os.PathLike | IO[bytes], name: str = "") -> np.ndarray:
    """The image in a file as uint8 RGB (H, W, 3), upright as its EXIF orientation says.

    source  path of the file, or the file opened in binary mode
    name    what messages call it, where it is not a path

    Greyscale and palette images become RGB, transparency is laid over white, 16-bit greyscale is scaled to 8 bits.
    Raises ValueError where the file is not a whole image, or is too small or too large for a codec.
    """
    path = name or source
    try:
        with Image.open(source) as image:
            # Before the pixels are decoded: a small file can declare an enormous image.
            check_image_size(*image.size)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: not an image that Pillow can read: give a {', '.join(s[1:].upper() for s in SUFFIXES[:5])} file"
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: larger than {MAX_PIXELS / 1e6:.0f} megapixels: scale it down") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: damaged or cut short ({error})") from None


def _as_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def write_image(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 RGB (H, W, 3) in the format of the suffix. An existing file is replaced only when the new one is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Created exclusively, so that the process's umask decides the mode: reading the umask would mean changing it for every
    # thread.
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part")
    try:
        with open(partial, "xb") as file:
            Image.fromarray(pixels).save(file, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def unused_path(folder: str | os.PathLike, stem: str, suffix: str = ".png") -> Path:
    """folder/stem.png, or stem-2.png, stem-3.png, … where that exists, so that no image overwrites another."""
    path, number = Path(folder) / f"{stem}{suffix}", 2
    while path.exists():
        path, number = Path(folder) / f"{stem}-{number}{suffix}", number + 1
    return path


def find_images(source: str | os.PathLike) -> list[Path]:
    """The image files that a file name, a folder or a glob stands for, sorted.

    In a folder, files without the suffix of an image are skipped.
    Raises ValueError where nothing is found.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise ValueError(f"{source}: no images in this folder (looked for {', '.join(SUFFIXES)})")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())
    if not found:
        raise ValueError(f"{source}: no such file, folder or pattern")
    return found


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W) in [0, 1]. Raises ValueError for any other array."""
    import torch

    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"image is {getattr(pixels, 'dtype', type(pixels))} {getattr(pixels, 'shape', '')}: expected uint8 (H, W, 3)"
        )
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3).float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """float (…, 3, H, W) in [0, 1] → uint8 (…, H, W, 3), rounded and clipped."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().movedim(-3, -1).contiguous().cpu().numpy()


def pad_to_block(images: Tensor) -> Tensor:
    """(N, 3, H, W) with both sides grown to multiples of 16 by repeating the last row and column."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
