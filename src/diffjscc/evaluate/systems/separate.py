# SPDX-License-Identifier: GPL-3.0-or-later
"""Separate source and channel coding, really decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ...fields import Fields, nearest
from ...images import to_pixels, to_tensor
from .base import Sent, check_transmission
from .channel_codes import CODES, MAX_LLR, Block, check_sionna, find_code
from .error_rates import Configuration, find_best
from .image_codecs import Encoded, encode_within, find_image_codec
from .image_codecs.base import salvaged
from .modulation import CONSTELLATIONS, demodulate, find_bits_per_symbol, modulate
from .transports import RADIO_CHANNELS, carry, find_radio

#: Values of ``code`` that leave the choice to `error_rates.find_best`, and the beginnings of the codes that it chooses from.
SEARCHES = {"best": "", "best-wifi": "wifi-", "best-nr": "nr-"}

RADIOS = ("stock", "symbols")

#: Constellations that GNU Radio's stock OFDM chain has.
STOCK = ("bpsk", "qpsk")

#: Seed of the scrambling sequence, known at both ends: coded zeros would not use the constellation evenly.
SCRAMBLING = 0x11


@dataclass(frozen=True, kw_only=True)
class Separate(Fields):
    """image ─► image codec ─► channel code ─► constellation ─► channel ─► soft decisions ─► channel code ─► image codec

    image_codec    "hevc", "av1", "jpeg2000", "bpg"; the finest setting that fits into the budget is used
    code           "wifi-1/2", "wifi-2/3", "wifi-3/4", "wifi-5/6": IEEE 802.11n LDPC, block 1944; "nr-1/2" and others: 5G NR LDPC;
                   "best": the code and constellation for the SNR, by their measured error rates; "best-wifi", "best-nr"
    constellation  "bpsk", "qpsk", "16qam", "64qam"; default: bpsk, and with a best code the best one
    radio          on "flowgraph" and "air": "stock", GNU Radio's stock OFDM chain carries the coded bits; "symbols", what carries
                   this project's analog symbols carries the constellation's points

    The defaults are the paper's at 1 dB. The receiver is told the number of bytes, as it is told the header of an analog image. It
    knows which blocks failed. Behind the first one nothing is used: an image codec's bits mean nothing without those before.
    """

    name: ClassVar[str] = "separate"
    rates: ClassVar[Sequence[Fraction] | None] = None

    image_codec: str = "hevc"
    code: str = "wifi-2/3"
    constellation: str = ""
    radio: str = "stock"

    def __post_init__(self):
        super().__post_init__()
        find_image_codec(self.image_codec)
        if self.constellation:
            find_bits_per_symbol(self.constellation)
        if self.code in SEARCHES:
            check_sionna()
        elif self.code in CODES:
            find_code(self.code)
        else:
            names = (*SEARCHES, *CODES)
            raise ValueError(f"no code is called '{self.code}'{nearest(self.code, names)}; there are {', '.join(names)}")
        if self.radio not in RADIOS:
            raise ValueError(f"no radio is called '{self.radio}'{nearest(self.radio, RADIOS)}; there are {', '.join(RADIOS)}")

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """As `System.send`."""
        check_transmission(image, budget, snr_db, channel)
        pixels = to_pixels(image)
        codec = find_image_codec(self.image_codec)
        details: dict[str, Any] = {"image_codec": codec.name}
        for chosen in self._configurations(budget, snr_db, channel):
            code, bits_per_symbol = find_code(chosen.code), find_bits_per_symbol(chosen.constellation)
            blocks = code.split(budget, bits_per_symbol)
            details |= {"code": code.name, "constellation": chosen.constellation, "bits": sum(block.bits for block in blocks)}
            encoded = encode_within(codec, pixels, details["bits"] // 8)
            if encoded is None:
                continue
            coded = code.encode(message(encoded.data, details["bits"]), blocks, bits_per_symbol)
            llrs, more = self._carry(coded, chosen.constellation, image, budget, snr_db, channel, seed)
            decided, accepted = code.decode(llrs, blocks, bits_per_symbol)
            shown, what = self._show(decided, accepted, blocks, encoded, pixels.shape[:2])
            details |= {
                "setting": encoded.setting,
                "bytes": len(encoded.data),
                "blocks": len(blocks),
                "block_errors": int((~accepted).sum()),
                "failed": int(what != "whole"),
                "shown": what,
                **more,
            }
            return Sent(to_tensor(shown), len(coded) // bits_per_symbol, details)
        return Sent(None, 0, details)

    def _configurations(self, budget: int, snr_db: float, channel: str) -> Sequence[Configuration]:
        """In the order in which they are tried, until the image fits."""
        if self.code not in SEARCHES:
            return [Configuration(self.code, self.constellation or "bpsk")]
        constellations = [self.constellation] if self.constellation else list(CONSTELLATIONS)
        if channel in RADIO_CHANNELS and self.radio == "stock":
            constellations = [name for name in constellations if name in STOCK]
        codes = [code for code in CODES if code.startswith(SEARCHES[self.code])]
        return find_best(codes, constellations, budget, snr_db, channel == "rayleigh")

    def _carry(
        self, coded: np.ndarray, constellation: str, image: Tensor, budget: int, snr_db: float, channel: str, seed: int
    ) -> tuple[np.ndarray, dict[str, str | int | float]]:
        """Log-likelihood ratios of the coded bits at the receiver, and details."""
        if channel in RADIO_CHANNELS and self.radio == "stock":
            bits_per_symbol = find_bits_per_symbol(constellation)
            read, more = find_radio(channel).send_bits(coded, bits_per_symbol, snr_db, seed)
            return (read * MAX_LLR).astype(np.float32), more
        reception = carry(modulate(coded, constellation), image, budget, channel, snr_db, seed)
        return demodulate(reception, constellation), {}

    def _show(
        self, decided: np.ndarray, accepted: np.ndarray, blocks: Sequence[Block], encoded: Encoded, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, str]:
        """What the receiver shows, uint8 RGB (H, W, 3); and how much of the image that is."""
        codec = find_image_codec(self.image_codec)
        data = received_bytes(decided, accepted, blocks)[: len(encoded.data)]
        if data == encoded.data:
            return codec.decode(data, *shape), "whole"
        pixels, any_of_it = salvaged(codec, data, *shape)
        return pixels, "part" if any_of_it else "nothing"


def received_bytes(decided: np.ndarray, accepted: np.ndarray, blocks: Sequence[Block]) -> bytes:
    """Of a `message`: the bytes before the first block that failed, zeros behind the image included."""
    usable = sum(block.bits for block, before in zip(blocks, np.logical_and.accumulate(accepted)) if before)
    bits = decided ^ scrambling(len(decided))
    return np.packbits(bits[: usable // 8 * 8]).tobytes()


def message(data: bytes, count: int) -> np.ndarray:
    """An image's bits, padded with zeros and scrambled, uint8 (count,)."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    return np.pad(bits, (0, count - len(bits))) ^ scrambling(count)


def scrambling(count: int) -> np.ndarray:
    """The sequence that both ends know, uint8 (count,)."""
    return np.random.default_rng(SCRAMBLING).integers(0, 2, count, dtype=np.uint8)
