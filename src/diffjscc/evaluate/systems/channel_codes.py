# SPDX-License-Identifier: GPL-3.0-or-later
"""Channel codes for `separate`: bits to coded bits that fill a budget exactly, and back, with the blocks that failed.

Encoded and decoded by Sionna, except that the encoder of the IEEE 802.11n codes is this project's own (`wifi_ldpc`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch

from ...errors import extra
from ...fields import nearest
from . import wifi_ldpc

#: How to install Sionna. It asks for NumPy 2, but what is used of it works with the NumPy 1 that GNU Radio is built against.
INSTALL = "pip install 'diffjscc[evaluate]' && pip install --no-deps sionna-no-rt==2.2.0"

#: Iterations of belief propagation: at first, and for the blocks that then are not code words.
ITERATIONS = (10, 50)

#: Log-likelihood ratios are cut to this, as in Sionna; it is also that of a bit that the receiver knows.
MAX_LLR = 20.0

#: Bits of the checksum of a 5G block; most information bits of one, with it.
NR_CRC, NR_CRC_BITS, NR_MAX_BITS = "CRC24A", 24, 8448

#: Rates of the 5G code that `separate` knows.
NR_RATES = ("1/3", "2/5", "9/20", "1/2", "11/20", "3/5", "2/3", "3/4", "5/6", "9/10")


@dataclass(frozen=True)
class Block:
    """One code word of a transmission: bits of the message in it, and coded bits that are sent of it."""

    bits: int
    coded: int


class ChannelCode(ABC):
    """A code; every method takes what `split` returns.

    name  such as "wifi-2/3"
    rate  nominal
    """

    name: str
    rate: Fraction

    @abstractmethod
    def split(self, symbols: int, bits_per_symbol: int) -> list[Block]:
        """The code words that fill so many symbols; fewer coded bits than fit where no code word can use the rest."""

    @abstractmethod
    def encode(self, bits: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> np.ndarray:
        """uint8 (Σ bits,) → uint8 (Σ coded,)."""

    @abstractmethod
    def decode(self, llrs: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> tuple[np.ndarray, np.ndarray]:
        """ln p(1)/p(0) of the coded bits, float32 (Σ coded,) → bits uint8 (Σ bits,), and which blocks the receiver accepts."""


class WifiCode(ChannelCode):
    """IEEE 802.11n LDPC, blocks of 1944 bits.

    The last block is shortened to what is left of the budget: information bits that both ends know to be zero are not sent. Where
    less is left than the parity bits of a block, it stays unused.
    """

    def __init__(self, rate: str, iterations: Sequence[int] = ITERATIONS):
        self.name, self.rate = f"wifi-{rate}", Fraction(rate)
        self._rate, self._iterations = rate, iterations
        self._length = wifi_ldpc.BLOCK_BITS
        self._known = int(self._length * self.rate)

    def split(self, symbols: int, bits_per_symbol: int) -> list[Block]:
        whole, rest = divmod(symbols * bits_per_symbol, self._length)
        blocks = [Block(self._known, self._length)] * whole
        shortened = rest - (self._length - self._known)
        return [*blocks, Block(shortened, rest)] if shortened > 0 else blocks

    def encode(self, bits: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> np.ndarray:
        padded = np.zeros((len(blocks), self._known), np.uint8)
        for row, part in zip(padded, _cut(bits, [block.bits for block in blocks])):
            row[: len(part)] = part
        words = wifi_ldpc.encode(self._rate, padded)
        sent = [np.concatenate((word[: block.bits], word[self._known :])) for word, block in zip(words, blocks)]
        return np.concatenate(sent)

    def words(self, llrs: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
        """ln p(1)/p(0) of whole code words, float32 (blocks, 1944): what was not sent is known to be zero."""
        words = np.full((len(blocks), self._length), -MAX_LLR, np.float32)
        for word, block, part in zip(words, blocks, _cut(llrs, [block.coded for block in blocks])):
            word[: block.bits], word[self._known :] = part[: block.bits], part[block.bits :]
        return words

    def decode(self, llrs: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> tuple[np.ndarray, np.ndarray]:
        words = self.words(llrs, blocks)
        matrix = wifi_ldpc.parity_check_matrix(self._rate)
        decided = np.zeros(words.shape, np.uint8)
        accepted = np.zeros(len(words), bool)
        for iterations in self._iterations:
            todo = np.flatnonzero(~accepted)
            if not len(todo):
                break
            with torch.inference_mode():
                decided[todo] = _wifi_decoder(self._rate, iterations)(torch.from_numpy(words[todo])).numpy().astype(np.uint8)
            checks = np.rint(matrix @ decided[todo].T.astype(np.float32)).astype(int) % 2
            accepted[todo] = ~checks.any(axis=0)
        return np.concatenate([word[: block.bits] for word, block in zip(decided, blocks)]), accepted


class NrCode(ChannelCode):
    """5G NR LDPC with rate matching and a checksum of 24 bits a block (3GPP TS 38.212).

    Blocks are of about equal length, with at most 8448 bits each, and use the budget to the last symbol.
    """

    def __init__(self, rate: str):
        self.name, self.rate = f"nr-{rate}", Fraction(rate)

    def split(self, symbols: int, bits_per_symbol: int) -> list[Block]:
        count = max(1, -(-int(symbols * bits_per_symbol * self.rate) // NR_MAX_BITS))
        blocks = []
        for index in range(count):
            coded = ((index + 1) * symbols // count - index * symbols // count) * bits_per_symbol
            bits = min(int(coded * self.rate), NR_MAX_BITS) - NR_CRC_BITS
            if bits > 0:
                blocks.append(Block(bits, coded))
        return blocks

    def encode(self, bits: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> np.ndarray:
        words = []
        for block, part in zip(blocks, _cut(bits, [block.bits for block in blocks])):
            check, encoder, _ = _nr_codec(block, bits_per_symbol)
            with torch.inference_mode():
                words.append(encoder(check(torch.from_numpy(part[None]).float()))[0].numpy().astype(np.uint8))
        return np.concatenate(words)

    def decode(self, llrs: np.ndarray, blocks: Sequence[Block], bits_per_symbol: int) -> tuple[np.ndarray, np.ndarray]:
        parts = _cut(llrs, [block.coded for block in blocks])
        decided = [np.zeros(block.bits, np.uint8) for block in blocks]
        accepted = np.zeros(len(blocks), bool)
        for index in range(len(ITERATIONS)):
            # Blocks of the same size are decoded together.
            for kind in dict.fromkeys(blocks):
                todo = [i for i, block in enumerate(blocks) if block == kind and not accepted[i]]
                if not todo:
                    continue
                check = _nr_checker(kind, bits_per_symbol)
                decoder = _nr_codec(kind, bits_per_symbol)[2][index]
                with torch.inference_mode():
                    bits, valid = check(decoder(torch.from_numpy(np.stack([parts[i] for i in todo]))))
                for i, value, ok in zip(todo, bits.numpy().astype(np.uint8), valid.flatten().tolist()):
                    decided[i], accepted[i] = value, ok
        return np.concatenate(decided), accepted


CODES = (*(f"wifi-{rate}" for rate in wifi_ldpc.RATES), *(f"nr-{rate}" for rate in NR_RATES))


@lru_cache(maxsize=32)
def find_code(name: str) -> ChannelCode:
    """A channel code by name. Raises ValueError where there is none of this name, or Sionna is not installed."""
    if name not in CODES:
        raise ValueError(f"no code is called '{name}'{nearest(name, CODES)}; there are {', '.join(CODES)}")
    check_sionna()
    family, _, rate = name.partition("-")
    return WifiCode(rate) if family == "wifi" else NrCode(rate)


def check_sionna() -> None:
    """Raises ValueError where Sionna is not installed."""
    if find_spec("sionna") is None:
        raise ValueError(f"LDPC codes need sionna, which is not installed: {INSTALL}")


def _cut(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1])


@lru_cache(maxsize=16)
def _wifi_decoder(rate: str, iterations: int):
    with extra("evaluate", "channel decoding"):
        from sionna.phy.fec.ldpc import LDPCBPDecoder
    matrix = wifi_ldpc.parity_check_matrix(rate)
    return LDPCBPDecoder(matrix, num_iter=iterations, hard_out=True, llr_max=MAX_LLR, device="cpu")


@lru_cache(maxsize=64)
def _nr_codec(block: Block, bits_per_symbol: int):
    """(checksum, encoder, (decoder, …))"""
    with extra("evaluate", "channel decoding"):
        from sionna.phy.fec.crc import CRCEncoder
        from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
    encoder = LDPC5GEncoder(block.bits + NR_CRC_BITS, block.coded, num_bits_per_symbol=bits_per_symbol, device="cpu")
    decoders = tuple(LDPC5GDecoder(encoder, num_iter=n, hard_out=True, llr_max=MAX_LLR, device="cpu") for n in ITERATIONS)
    return CRCEncoder(NR_CRC, k=block.bits, device="cpu"), encoder, decoders


@lru_cache(maxsize=64)
def _nr_checker(block: Block, bits_per_symbol: int):
    from sionna.phy.fec.crc import CRCDecoder

    return CRCDecoder(_nr_codec(block, bits_per_symbol)[0], device="cpu")
