# SPDX-License-Identifier: GPL-3.0-or-later
"""A burst's header: fields, checksum and code. docs/air-interface.md, section 5."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..symbols import ImageHeader, rate_channels
from .preset import CALLSIGN_VERSION, HEADER_ELEMENTS, MAX_PAYLOAD, VERSION
from .sequences import scattered_order

#: Bits of the whole header, and of its parts; the payload's length takes the others.
HEADER_BITS, VERSION_BITS, IMAGE_BITS, CRC_BITS = 128, 3, 88, 24
LENGTH_BITS = HEADER_BITS - VERSION_BITS - IMAGE_BITS - CRC_BITS

#: CRC-24 of RFC 4880, section 6.1: polynomial with its highest term, and initial register.
CRC_POLYNOMIAL, CRC_INITIAL = 0x1864CFB, 0xB704CE

#: Most fragments of an image.
MAX_FRAGMENTS = 64

#: Image ids and sessions on the air count modulo these.
ID_PERIOD, SESSION_PERIOD = 1 << 16, 1 << 5

#: Largest side of an image, pixels.
MAX_SIDE = 1 << 14

#: Lowest SNR that the header can carry, dB; it counts up in half decibels.
MIN_SNR_DB = -24.0

#: Generators of the tail-biting convolutional code, whose highest bit takes the current bit, and its constraint length.
GENERATORS = (0o133, 0o171, 0o165)
CONSTRAINT = 7

#: Each copy of the coded header in a burst is rotated by this many symbols against the copy before.
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
    """One fragment of an image: what a burst carries.

    header   of the image; its image_id is carried modulo 2¹⁶
    index    of this fragment, 0 … count − 1
    count    fragments of the image, at most 64
    session  number that the transmitter drew when it started, 0 … 31

    Raises ValueError for what the air interface cannot carry.
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
        """Index of its first symbol among the image's in scattered order."""
        return self.index * self.header.symbol_count // self.count

    @property
    def length(self) -> int:
        """Its symbols."""
        return (self.index + 1) * self.header.symbol_count // self.count - self.begin


def codec_number(codec: str) -> int:
    """The 12 bits that identify a codec on the air: the low bits of its id's CRC-32."""
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
    """The fragment that 11 bytes describe.

    find_codec   gives the id of the codec with a number, and raises ValueError where there is none

    Raises ValueError for bytes that `pack_image` never gives.
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
    register = CRC_INITIAL
    for byte in data:
        register ^= byte << (CRC_BITS - 8)
        for _ in range(8):
            register = register << 1 ^ (CRC_POLYNOMIAL if register >> (CRC_BITS - 1) & 1 else 0)
    return register & (1 << CRC_BITS) - 1


def header_bits(length: int, image: bytes, with_callsign: bool = False) -> np.ndarray:
    """Version, payload length, image part and checksum: uint8 (128,), each 0 or 1.

    with_callsign  whether a callsign's block follows the header

    Raises ValueError unless 1 ≤ ``length`` ≤ 8191.
    """
    if not 1 <= length <= MAX_PAYLOAD:
        raise ValueError(f"payload of {length} symbols: a burst carries 1 to {MAX_PAYLOAD}")
    version = CALLSIGN_VERSION if with_callsign else VERSION
    data = (version << LENGTH_BITS | length).to_bytes(2, "big") + image
    return np.unpackbits(np.frombuffer(data + crc24(data).to_bytes(CRC_BITS // 8, "big"), np.uint8))


def convolutional_code(bits: np.ndarray) -> np.ndarray:
    """Tail-biting code of rate 1/3: uint8 (n,) → (3n,), the three generators' bits in turn."""
    # The register starts with the last six bits, so that it ends as it began.
    register = np.stack([np.roll(bits, delay) for delay in range(CONSTRAINT)])
    taps = np.array([[g >> (CONSTRAINT - 1 - delay) & 1 for delay in range(CONSTRAINT)] for g in GENERATORS])
    return (taps @ register % 2).T.reshape(-1).astype(np.uint8)


def header_elements(bits: np.ndarray, scramble: np.ndarray) -> np.ndarray:
    """The coded header, as the burst's first 768 resource elements send it: complex64 (768,).

    The coded bits in scattered order become QPSK symbols, two bits each (the first is the sign of the real part, 1 for minus).
    Four copies follow each other, each rotated by COPY_SHIFT symbols more, and everything is multiplied by ``scramble``.
    """
    coded = 1.0 - 2.0 * convolutional_code(bits)[scattered_order(3 * HEADER_BITS)]
    symbols = (coded[::2] + 1j * coded[1::2]) / np.sqrt(2)
    copies = [np.roll(symbols, -COPY_SHIFT * copy) for copy in range(HEADER_ELEMENTS // len(symbols))]
    return (np.concatenate(copies) * scramble).astype(np.complex64)
