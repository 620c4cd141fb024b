# SPDX-License-Identifier: GPL-3.0-or-later
"""A burst's header: fields, checksum and code. docs/air-interface.md, section 5."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..symbols import ImageHeader, rate_channels
from .preset import HEADER_ELEMENTS, MAX_PAYLOAD, VERSION
from .sequences import scattered_order

#: Bits of the whole header, and of the part that describes the image.
HEADER_BITS, IMAGE_BITS = 128, 88

#: Most fragments of an image.
MAX_FRAGMENTS = 64

#: Image ids and sessions on the air count modulo these.
ID_PERIOD, SESSION_PERIOD = 1 << 16, 1 << 5

#: Largest side of an image, pixels.
MAX_SIDE = 1 << 14

#: Lowest SNR that the header can say, dB; it counts up in half decibels.
MIN_SNR_DB = -24.0

#: Generators of the code, octal, the current bit first: (3, 1, 7), tail-biting.
GENERATORS = (0o133, 0o171, 0o165)
CONSTRAINT = 7

#: The copies of the coded header in a burst are turned by this many symbols against each other.
COPY_SHIFT = 61

#: Fields of the image's part: name and bits.
FIELDS = (
    ("session", 5),
    ("image_id", 16),
    ("width", 14),
    ("height", 14),
    ("codec", 12),
    ("rate", 8),
    ("snr", 7),
    ("index", 6),
    ("count", 6),
)


@dataclass(frozen=True)
class Fragment:
    """Which part of which image a burst carries.

    header   the image's; its image_id counts modulo 2¹⁶ on the air
    index    of this fragment, 0 … count − 1
    count    of the image's fragments, at most 64
    session  a number that changes when a transmitter starts anew, 0 … 31

    Raises ValueError where the air interface cannot carry it.
    """

    header: ImageHeader
    index: int
    count: int
    session: int = 0

    def __post_init__(self):
        if not 1 <= self.count <= MAX_FRAGMENTS or not 0 <= self.index < self.count:
            raise ValueError(f"fragment {self.index} of {self.count}: an image has 1 to {MAX_FRAGMENTS} fragments")
        if not 0 <= self.session < SESSION_PERIOD:
            raise ValueError(f"session {self.session}: must be 0 to {SESSION_PERIOD - 1}")
        if max(self.header.width, self.header.height) > MAX_SIDE:
            raise ValueError(
                f"image is {self.header.width}×{self.header.height} pixels: the air interface carries sides up to {MAX_SIDE}"
            )
        if not 1 <= self.length <= MAX_PAYLOAD:
            raise ValueError(f"fragment of {self.length} symbols: a burst carries 1 to {MAX_PAYLOAD}")

    @property
    def begin(self) -> int:
        """Its first symbol among the image's, in the scattered order."""
        return self.index * self.header.symbol_count // self.count

    @property
    def length(self) -> int:
        """Symbols in it."""
        return (self.index + 1) * self.header.symbol_count // self.count - self.begin


def codec_number(codec: str) -> int:
    """The 12 bits that name a codec on the air: the low bits of its id's CRC-32."""
    return zlib.crc32(codec.encode()) & 0xFFF


def pack_image(fragment: Fragment) -> bytes:
    """A fragment's 11 bytes in the header; the encoder's SNR is rounded to half a decibel."""
    header = fragment.header
    values = {
        "session": fragment.session,
        "image_id": header.image_id % ID_PERIOD,
        "width": header.width - 1,
        "height": header.height - 1,
        "codec": codec_number(header.codec),
        "rate": rate_channels(header.rate) // 2 - 1,
        "snr": min(max(round(2 * (header.tx_snr_db - MIN_SNR_DB)), 0), 127),
        "index": fragment.index,
        "count": fragment.count - 1,
    }
    packed = 0
    for name, bits in FIELDS:
        if values[name] >> bits:
            raise ValueError(f"header field {name} = {values[name]} does not fit {bits} bits")
        packed = packed << bits | values[name]
    return packed.to_bytes(IMAGE_BITS // 8, "big")


def unpack_image(packed: bytes, find_codec: Callable[[int], str]) -> Fragment:
    """The fragment of 11 bytes; ``find_codec`` tells a codec's id from its number, and raises ValueError where it knows none.

    Raises ValueError where the bytes are no fragment that a transmitter of ours would send.
    """
    if len(packed) != IMAGE_BITS // 8:
        raise ValueError(f"header of {len(packed)} bytes: expected {IMAGE_BITS // 8}")
    rest, values = int.from_bytes(packed, "big"), {}
    for name, bits in reversed(FIELDS):
        values[name] = rest & (1 << bits) - 1
        rest >>= bits
    header = ImageHeader(
        image_id=values["image_id"],
        width=values["width"] + 1,
        height=values["height"] + 1,
        codec=find_codec(values["codec"]),
        rate=Fraction(values["rate"] + 1, 256),
        tx_snr_db=MIN_SNR_DB + values["snr"] / 2,
    )
    return Fragment(header, values["index"], values["count"] + 1, values["session"])


def crc24(data: bytes) -> int:
    """CRC-24 of RFC 4880, section 6.1."""
    register = 0xB704CE
    for byte in data:
        register ^= byte << 16
        for _ in range(8):
            register = register << 1 ^ (0x1864CFB if register & 0x800000 else 0)
    return register & 0xFFFFFF


def header_bits(length: int, image: bytes) -> np.ndarray:
    """Version, payload length, image part and checksum: uint8 (128,), each 0 or 1.

    Raises ValueError unless 1 ≤ ``length`` ≤ 8191.
    """
    if not 1 <= length <= MAX_PAYLOAD:
        raise ValueError(f"payload of {length} symbols: a burst carries 1 to {MAX_PAYLOAD}")
    data = (VERSION << 13 | length).to_bytes(2, "big") + image
    return np.unpackbits(np.frombuffer(data + crc24(data).to_bytes(3, "big"), np.uint8))


def convolutional_code(bits: np.ndarray) -> np.ndarray:
    """Tail-biting code of rate 1/3: uint8 (n,) → (3n,), the three generators' bits in turn."""
    # The register starts with the last six bits, so that it ends as it began.
    register = np.stack([np.roll(bits, delay) for delay in range(CONSTRAINT)])
    taps = np.array([[g >> (CONSTRAINT - 1 - delay) & 1 for delay in range(CONSTRAINT)] for g in GENERATORS])
    return (taps @ register % 2).T.reshape(-1).astype(np.uint8)


def header_elements(bits: np.ndarray, scramble: np.ndarray) -> np.ndarray:
    """The coded header as the burst's first resource elements send it: complex64 (768,).

    Coded bits in scattered order, in pairs to QPSK (first bit the real part's sign, 1 for minus), four copies, each turned by
    COPY_SHIFT symbols more, all times ``scramble``.
    """
    coded = 1.0 - 2.0 * convolutional_code(bits)[scattered_order(3 * HEADER_BITS)]
    symbols = (coded[::2] + 1j * coded[1::2]) / np.sqrt(2)
    copies = [np.roll(symbols, -COPY_SHIFT * copy) for copy in range(HEADER_ELEMENTS // len(symbols))]
    return (np.concatenate(copies) * scramble).astype(np.complex64)
