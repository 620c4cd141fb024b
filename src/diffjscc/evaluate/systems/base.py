# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface of the transmission systems that sweeps compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from torch import Tensor

from ...fields import nearest
from ...symbols import BLOCK, ImageHeader, check_image_size, check_rate, parse_rate, parse_snr_db

#: What lies between sender and receiver. "awgn" and "rayleigh" are ideal symbol channels (`diffjscc.channel`); "flowgraph" is
#: GNU Radio's channel model; "air" is the whole air interface, with echoes and offsets.
CHANNELS = ("awgn", "rayleigh", "flowgraph", "air")


@dataclass(frozen=True)
class Sent:
    """One image after one transmission.

    image         received, float32 (3, H, W) in [0, 1]; None where the image cannot be sent within the budget
    channel_uses  complex symbols used, at most the budget; of an image that cannot be sent, 0
    details       what the system chose and what went wrong, for a person who reads the table: bits, code, QP, block errors, …
    """

    image: Tensor | None
    channel_uses: int
    details: dict[str, str | int | float] = field(default_factory=dict)


class System(Protocol):
    """What takes an image to a receiver.

    name   as in `build_system`
    rates  channel uses per pixel that it can be given; None: any
    """

    name: str
    rates: Sequence[Fraction] | None

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """Sends one image; the same arguments give the same result, bit for bit, whatever was sent before.

        image    float32 (3, H, W) in [0, 1]
        budget   complex symbols of unit mean power that may be used
        snr_db   γ = P/σ², dB, where σ² is the variance of the noise on a complex symbol; known at both ends
        channel  one of `CHANNELS`
        seed     of noise and fading

        Raises ValueError for what `check_transmission` refuses, a channel that needs GNU Radio where there is none, and a budget
        that none of the system's rates uses.
        """
        ...


def check_transmission(image: Tensor, budget: int, snr_db: float, channel: str) -> None:
    """Raises ValueError, one line, for an image, a budget, an SNR or a channel that no system can use."""
    if channel not in CHANNELS:
        raise ValueError(f"no channel is called '{channel}'{nearest(channel, CHANNELS)}; there are {', '.join(CHANNELS)}")
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(f"image is {image.dtype} {tuple(image.shape)}: expected float (3, H, W)")
    check_image_size(image.shape[2], image.shape[1])
    if not image.isfinite().all():
        raise ValueError("image holds NaN or infinite values: expected RGB in [0, 1]")
    if budget < 1:
        raise ValueError(f"budget = {budget}: must be at least 1 channel use")
    parse_snr_db(snr_db)


def rate_of_budget(image: Tensor, budget: int, codec: str, rates: Sequence[Fraction]) -> Fraction:
    """The codec's rate that uses the budget for this image. Raises ValueError where it has none."""
    height, width = image.shape[-2:]
    blocks = -(-height // BLOCK) * -(-width // BLOCK)
    return check_rate(codec, rates, Fraction(budget, blocks * BLOCK * BLOCK))


def header_of_budget(image: Tensor, budget: int, name: str, snr_db: float) -> ImageHeader:
    """A header under which ``budget`` symbols travel, for systems that have no codec. Raises ValueError where there is none."""
    height, width = image.shape[-2:]
    blocks = -(-height // BLOCK) * -(-width // BLOCK)
    return ImageHeader(0, width, height, name, parse_rate(Fraction(budget, blocks * BLOCK * BLOCK)), snr_db)
