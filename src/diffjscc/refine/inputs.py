# SPDX-License-Identifier: GPL-3.0-or-later
"""What a refiner is given, checked: images in any of diffusers' forms, one SNR or prompt for all images or one each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from PIL import Image
from torch import Tensor

from ..errors import one_line
from ..images import to_tensor

#: The shortest side that is refined, pixels.
SHORTEST_SIDE = 16

#: How far from [0, 1] a value may be and still be taken for rounding or overshoot, which is clipped.
OVERSHOOT = 0.5

_EXPECTED = "expected PIL images, uint8 or float arrays (H, W, 3), or float tensors (3, H, W): one, a list or a batch"

T = TypeVar("T")


def image_batch(image: PipelineImageInput, processor: VaeImageProcessor) -> Tensor:
    """One image, a list or a batch of images → float32 (N, 3, H, W) in [0, 1].

    image      PIL images; arrays (H, W, 3), uint8 or float in [0, 1]; tensors (3, H, W), float in [0, 1]
    processor  converts what diffusers knows, to RGB and without changing its size or range

    Raises ValueError where it is none of these, images of one call differ in size, a side is shorter than 16 pixels, or a value
    is not finite or far from [0, 1].
    """
    if isinstance(image, tuple):
        image = list(image)
    _check_forms(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = to_tensor(image)
    elif isinstance(image, list) and isinstance(image[0], np.ndarray) and image[0].dtype == np.uint8:
        image = [to_tensor(pixels) for pixels in image]
    try:
        images = processor.preprocess(image)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"image: {_EXPECTED} ({one_line(error)})") from None
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"image is {tuple(images.shape[-3:])} as channels, height, width: {_EXPECTED}")
    if min(images.shape[-2:]) < SHORTEST_SIDE:
        raise ValueError(f"image is {images.shape[-1]}×{images.shape[-2]}: both sides must be at least {SHORTEST_SIDE}")
    images = images.float()
    # Either is NaN where one value is.
    low, high = (bound.item() for bound in images.aminmax())
    if not np.isfinite((low, high)).all():
        raise ValueError("image holds NaN or infinite values: expected RGB in [0, 1]")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(f"image holds values from {low:.4g} to {high:.4g}: expected RGB in [0, 1], or uint8 arrays")
    return images.clamp(0, 1)


def _check_forms(image: Any) -> None:
    """Refuses what diffusers would convert to something else than was meant, or fail to convert with an obscure message."""
    images = image if isinstance(image, list) else [image]
    if not images:
        raise ValueError("image is an empty list: give at least one image")
    for one in images:
        if isinstance(one, Image.Image):
            continue
        if not isinstance(one, (np.ndarray, Tensor)):
            raise ValueError(f"image is {type(one).__name__}: {_EXPECTED}")
        is_float = one.is_floating_point() if isinstance(one, Tensor) else one.dtype.kind == "f" or one.dtype == np.uint8
        if not is_float or one.ndim not in ((3,) if isinstance(image, list) else (3, 4)):
            raise ValueError(f"image is {one.dtype} {tuple(one.shape)}: {_EXPECTED}")
    kinds = {Image.Image if isinstance(one, Image.Image) else type(one) for one in images}
    sizes = {one.size if isinstance(one, Image.Image) else tuple(one.shape) for one in images}
    if len(kinds) > 1:
        raise ValueError("image is a list of different types: give images of one type")
    if len(sizes) > 1:
        raise ValueError(f"image is a list of {len(sizes)} different sizes: give images of one size in a call")


def one_each(values: T | list[T], count: int, what: str) -> list[T]:
    """``count`` values from one for all, or from one each. Raises ValueError for another number."""
    if not isinstance(values, (list, tuple)):
        return [values] * count
    if len(values) != count:
        raise ValueError(f"{len(values)} {what} for {count} images: give one, or one each")
    return list(values)


def snr_batch(snr_db: float | Sequence[float] | Tensor | None, count: int, device: torch.device) -> Tensor:
    """float32 (N,) dB, NaN where it is not known. Raises ValueError where it is neither one value nor one each."""
    snr = torch.as_tensor(float("nan") if snr_db is None else snr_db, dtype=torch.float32, device=device)
    if snr.numel() not in (1, count):
        raise ValueError(f"snr_db holds {snr.numel()} values for {count} images: give one, or one each")
    return snr.reshape(-1).expand(count)
