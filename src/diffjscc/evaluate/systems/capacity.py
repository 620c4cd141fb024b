# SPDX-License-Identifier: GPL-3.0-or-later
"""Image codecs at the channel's capacity: a bound of what separate coding can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from ...fields import Fields
from ...images import to_pixels, to_tensor
from ...snr import noise_variance
from .base import Sent, check_transmission
from .image_codecs import encode_within, find_image_codec
from .transports import draw_fading


@dataclass(frozen=True, kw_only=True)
class Capacity(Fields):
    """image ─► image codec ─► C = log₂(1 + γ·|h|²) bits a channel use, without errors ─► image codec

    image_codec  as in `Separate`

    The transmitter is taken to know the gain h of "rayleigh". On GNU Radio's channels h = 1, as if there were neither echoes nor
    offsets.
    """

    name: ClassVar[str] = "capacity"
    rates: ClassVar[Sequence[Fraction] | None] = None

    image_codec: str = "hevc"

    def __post_init__(self):
        super().__post_init__()
        find_image_codec(self.image_codec)

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """As `System.send`."""
        check_transmission(image, budget, snr_db, channel)
        gain = abs(draw_fading(channel, seed)) ** 2
        capacity = math.log2(1 + gain / noise_variance(float(snr_db)))
        bits = math.floor(budget * capacity)
        codec, pixels = find_image_codec(self.image_codec), to_pixels(image)
        details: dict[str, str | int | float] = {"image_codec": codec.name, "capacity": round(capacity, 6), "bits": bits}
        encoded = encode_within(codec, pixels, bits // 8)
        if encoded is None:
            return Sent(None, 0, details)
        details |= {"setting": encoded.setting, "bytes": len(encoded.data)}
        used = min(budget, math.ceil(8 * len(encoded.data) / capacity))
        return Sent(to_tensor(codec.decode(encoded.data, *pixels.shape[:2])), used, details)
