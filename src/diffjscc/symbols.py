# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects that encoder, radio and decoder exchange: `ImageHeader`, `Symbols`, `Reception`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np

from .errors import one_line
from .snr import noise_variance

#: Pixels on a side of the block that one latent position stands for (downsampling 2⁴).
BLOCK = 16

#: Pixels of the largest image that is encoded; a header that claims more is refused.
MAX_PIXELS = 1 << 26

#: The smallest side a codec accepts, in pixels.
MIN_SIDE = 32

#: The largest encoder effort, in steps; a few hundred find nearly all that there is to find.
MAX_EFFORT = 10_000

#: 1/2 real channels a symbol over 16×16 pixels: R = C_out / 512 (paper, section III-A).
_CHANNELS_PER_RATE = 2 * BLOCK * BLOCK


def parse_rate(rate: str | float | Fraction) -> Fraction:
    """A rate R in channel uses per pixel from "1/128", 0.0078125 or a Fraction.

    Raises ValueError where R is not a positive, even number of real channels over 512.
    """
    try:
        # A float first where there is an exponent: as a fraction, 1e999999999 would have a thousand million digits.
        value = Fraction(float(rate) if isinstance(rate, str) and "e" in rate.lower() else rate)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise ValueError(f"rate {rate!r} is not a number: write it as a fraction, such as 1/128") from None
    channels = value * _CHANNELS_PER_RATE
    if channels.denominator != 1 or channels <= 0 or channels % 2:
        raise ValueError(
            f"rate {rate} is not a whole number of symbols per {BLOCK}×{BLOCK} pixels: use n/{BLOCK * BLOCK}, such as 1/128"
        )
    return value


def check_rate(codec: str, rates: Sequence[Fraction] | None, rate: str | float | Fraction) -> Fraction:
    """The rate as a Fraction, where it is one of the ``rates`` of the codec with this name; None: it has every rate.

    Raises ValueError where it is not.
    """
    rate = parse_rate(rate)
    if rates is not None and rate not in rates:
        raise ValueError(f"rate {rate} is not one that codec '{codec}' has: choose from {', '.join(map(str, rates))}")
    return rate


def rate_channels(rate: Fraction) -> int:
    """Real latent channels C_out that rate R sends: C_out = 512 R."""
    return int(rate * _CHANNELS_PER_RATE)


def parse_snr_db(snr_db: float | str, name: str = "snr_db") -> float:
    """A finite SNR in dB, from a number or its text. Raises ValueError for NaN, infinities and what is not a number."""
    try:
        value = float(snr_db)
    except (ValueError, TypeError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} = {one_line(snr_db, 40)} is not an SNR: give a finite number of dB, such as 1.0")
    return value


def parse_effort(effort: int | float | str) -> int:
    """An encoder effort, in steps, from a number or its text. Raises ValueError unless it is a whole number, 0 to 10 000."""
    try:
        value = math.nan if isinstance(effort, bool) else float(effort)
    except (ValueError, TypeError, OverflowError):
        value = math.nan
    if not (0 <= value <= MAX_EFFORT and value.is_integer()):
        raise ValueError(f"effort = {effort}: must be a whole number of steps, 0 to {MAX_EFFORT}")
    return int(value)


@dataclass(frozen=True)
class ImageHeader:
    """All that a receiver needs to decode one image.

    image_id   number of the image within a transmission, 0 … 2³²−1
    width      pixels, before padding
    height     pixels, before padding
    codec      id of the codec, as `diffjscc models` lists it
    rate       R = K/(H·W) of the padded image, channel uses per pixel
    tx_snr_db  the SNR that the encoder assumed, dB

    Raises ValueError for values that no transmitter of this package sends.
    """

    image_id: int
    width: int
    height: int
    codec: str
    rate: Fraction
    tx_snr_db: float

    def __post_init__(self):
        object.__setattr__(self, "rate", parse_rate(self.rate))
        object.__setattr__(self, "tx_snr_db", parse_snr_db(self.tx_snr_db, "tx_snr_db"))
        for name in ("image_id", "width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise ValueError(f"header field {name} = {value!r} is not an integer")
            object.__setattr__(self, name, int(value))
        if not 0 <= self.image_id < 1 << 32:
            raise ValueError(f"header field image_id = {self.image_id} does not fit 32 bits")
        check_image_size(self.width, self.height)
        if not isinstance(self.codec, str) or not self.codec:
            raise ValueError(f"header field codec = {self.codec!r} is not a codec id: see `diffjscc models`")

    @property
    def symbol_count(self) -> int:
        """K, the number of complex symbols of this image."""
        return math.ceil(self.width / BLOCK) * math.ceil(self.height / BLOCK) * rate_channels(self.rate) // 2

    def to_dict(self) -> dict[str, int | float | str]:
        """Plain values, for JSON, MessagePack or PMT."""
        return {**asdict(self), "rate": str(self.rate)}

    @classmethod
    def from_dict(cls, fields: dict) -> ImageHeader:
        """The header of `to_dict`; other keys are ignored. Raises ValueError where a field is missing or wrong."""
        missing = [name for name in cls.__dataclass_fields__ if name not in fields]
        if missing:
            raise ValueError(
                f"image header lacks {', '.join(missing)}: a burst must carry all of {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Symbols:
    """One encoded image: values complex64 (K,), mean |y|² = 1, and its header."""

    values: np.ndarray
    header: ImageHeader


@dataclass(frozen=True)
class Reception:
    """One received image, before decoding.

    values     complex64 (K,), equalised: sent symbols plus noise
    noise_var  float32 (K,), variance σ² of the noise on each *complex* symbol; +inf marks an erasure
    snr_db     SNR at the receiver, dB
    fading     flat-fading gain h that was equalised, for codecs that are told it (Rayleigh CSI)
    callsign   of the transmitter, where its bursts carried one that could be read
    """

    values: np.ndarray
    noise_var: np.ndarray
    snr_db: float
    fading: complex = 1.0
    callsign: str = ""

    def __post_init__(self):
        parse_snr_db(self.snr_db)
        if self.values.shape != self.noise_var.shape or self.values.ndim != 1:
            raise ValueError(
                f"reception has {self.values.shape} symbols and {self.noise_var.shape} noise variances: both must be (K,)"
            )

    @classmethod
    def with_equal_noise(cls, values: np.ndarray, snr_db: float) -> Reception:
        """Symbols (K,) of unit power that all met noise of the same variance, that of ``snr_db``."""
        snr_db = parse_snr_db(snr_db)
        return cls(np.asarray(values, np.complex64), np.full(len(values), noise_variance(snr_db), np.float32), snr_db)


def check_image_size(width: int, height: int) -> None:
    """Raises ValueError unless both sides are at least 32 pixels and the area is at most 2²⁶ pixels."""
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"image is {width}×{height} pixels: both sides must be at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"image is {width}×{height}, {width * height / 1e6:.0f} megapixels: scale it down to {MAX_PIXELS / 1e6:.0f}"
        )
