# SPDX-License-Identifier: GPL-3.0-or-later
"""JPEG 2000 through Pillow, which brings OpenJPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, features

from .base import ImageCodec

#: Compression ratios are a constant apart: this many in a factor of two.
STEPS_PER_OCTAVE = 16


class Jpeg2000(ImageCodec):
    """JPEG 2000, irreversible 9/7 wavelet, codestream without container. Setting s asks for a compression ratio of 2^(s/16).

    Of a codestream that ends early neither Pillow nor ffmpeg decodes anything.
    """

    name = "jpeg2000"
    coarsest, finest = 12 * STEPS_PER_OCTAVE, 0

    def __init__(self) -> None:
        if not features.check("jpg_2000"):
            raise ValueError("image codec 'jpeg2000' needs OpenJPEG, which this build of Pillow does not have")

    def encode(self, pixels: np.ndarray, setting: int) -> bytes:
        file = io.BytesIO()
        ratio = 2 ** (setting / STEPS_PER_OCTAVE)
        Image.fromarray(pixels).save(
            file, "JPEG2000", no_jp2=True, irreversible=True, quality_mode="rates", quality_layers=[ratio], num_resolutions=6
        )
        return file.getvalue()

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
