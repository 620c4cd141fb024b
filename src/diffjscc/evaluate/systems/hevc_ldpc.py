# SPDX-License-Identifier: GPL-3.0-or-later
"""HEVC and LDPC with the interface of a JSCC codec, for flowgraphs that show the two side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...fields import nearest
from ...images import to_pixels, to_tensor
from ...symbols import ImageHeader, Reception, Symbols, parse_rate
from . import wifi_ldpc
from .channel_codes import MAX_LLR, WifiCode
from .image_codecs import encode_within, find_image_codec
from .image_codecs.base import salvaged
from .separate import message, received_bytes

#: Codes and constellations by name.
CODES = tuple(f"wifi-{rate}" for rate in wifi_ldpc.RATES)
CONSTELLATIONS = {"bpsk": 1, "qpsk": 2}

#: What the receiver shows of an image that did not arrive whole.
ON_FAILURE = ("show", "freeze")

#: Iterations of belief propagation.
ITERATIONS = 30


class HevcLdpc:
    """image ─► HEVC still ─► IEEE 802.11n LDPC ─► BPSK or QPSK ─► channel ─► soft decisions ─► LDPC ─► HEVC ─► image

    code           "wifi-1/2", "wifi-2/3", "wifi-3/4" or "wifi-5/6", blocks of 1944 bits
    constellation  "bpsk" or "qpsk"
    on_failure     "show": the part before the first block that failed, as far as an HEVC decoder shows it, and grey for the rest;
                   "freeze": the last image of the same size that came whole, as a video player does; grey before there is one

    It is `systems.Separate` with a fixed code and constellation, and with a decoder that is fast enough to watch; it needs PyAV
    and not Sionna. As there, the receiver is told the image's size, and knows which blocks failed. The fixed code brings the cliff:
    below some SNR no block arrives.

    ``shown`` counts images by what the receiver showed: "whole", "part" or "nothing" of the image, or "frozen". ``whole`` says
    whether the last one came whole.

    Raises ValueError for a code, constellation or policy that does not exist, and where PyAV is not installed.
    """

    name: ClassVar[str] = "hevc-ldpc"
    rates: ClassVar[None] = None

    def __init__(self, code: str = "wifi-3/4", constellation: str = "qpsk", on_failure: str = "show"):
        for what, value, values in (
            ("code", code, CODES),
            ("constellation", constellation, tuple(CONSTELLATIONS)),
            ("on_failure", on_failure, ON_FAILURE),
        ):
            if value not in values:
                near = nearest(value, list(values)) if isinstance(value, str) else ""
                raise ValueError(f"{what} = {value!r}: must be one of {', '.join(values)}{near}")
        self._code, self._bits, self._on_failure = WifiCode(code.removeprefix("wifi-")), CONSTELLATIONS[constellation], on_failure
        self._codec = find_image_codec("hevc")
        self._last: np.ndarray | None = None
        self.shown: Counter[str] = Counter()
        self.whole = True

    def encode(
        self,
        image: Tensor,
        snr_db: float,
        rate: str | float | Fraction,
        image_id: int = 0,
        effort: int = 0,
        enough: Callable[[], bool] | None = None,
    ) -> Symbols:
        """As `Codec.encode`. The SNR goes into the header only, and there is no effort: the finest HEVC setting that fits is used.

        Raises ValueError for an image that does not fit at the coarsest setting.
        """
        height, width = image.shape[-2:]
        header = ImageHeader(image_id, width, height, self.name, parse_rate(rate), snr_db)
        blocks = self._code.split(header.symbol_count, self._bits)
        bits = sum(block.bits for block in blocks)
        encoded = encode_within(self._codec, to_pixels(image), bits // 8) if blocks else None
        if encoded is None:
            raise ValueError(
                f"image of {width}×{height} does not fit into {bits // 8} bytes, {header.symbol_count} symbols, as HEVC: "
                "raise the rate"
            )
        coded = self._code.encode(message(encoded.data, bits), blocks, self._bits)
        # Points that the code words leave unused carry the first ones again.
        return Symbols(np.resize(self._modulate(coded), header.symbol_count), header)

    def decode(self, reception: Reception, header: ImageHeader) -> Tensor:
        """As `Codec.decode`; what came is counted in ``shown``."""
        blocks = self._code.split(header.symbol_count, self._bits)
        llrs = self._demodulate(reception)[: sum(block.coded for block in blocks)]
        words, accepted = wifi_ldpc.decode(str(self._code.rate), self._code.words(llrs, blocks), ITERATIONS)
        decided = np.concatenate([word[: block.bits] for word, block in zip(words, blocks)])
        self.whole = bool(accepted.all())
        pixels, shown = self._show(received_bytes(decided, accepted, blocks), header.height, header.width)
        self.shown[shown] += 1
        return to_tensor(pixels)

    def _show(self, data: bytes, height: int, width: int) -> tuple[np.ndarray, str]:
        if self.whole:
            # HEVC's own bits end with a one: zeros behind them are padding.
            self._last = self._codec.decode(data.rstrip(b"\x00"), height, width)
            return self._last, "whole"
        if self._on_failure == "freeze" and self._last is not None and self._last.shape[:2] == (height, width):
            return self._last, "frozen"
        pixels, any_of_it = salvaged(self._codec, data, height, width)
        return pixels, "part" if any_of_it else "nothing"

    def _modulate(self, bits: np.ndarray) -> np.ndarray:
        """uint8 (N·m,) → complex64 (N,) of power 1; a zero is positive, and QPSK's bits are its two axes."""
        levels = 1 - 2 * bits.astype(np.float32)
        if self._bits == 1:
            return levels.astype(np.complex64)
        return ((levels[0::2] + 1j * levels[1::2]) / np.sqrt(2)).astype(np.complex64)

    def _demodulate(self, reception: Reception) -> np.ndarray:
        """ln p(1)/p(0) of each bit, float32 (N·m,); 0 where a symbol is lost.

        The noise on an axis has half the variance σ² of the symbol's: ln p(1)/p(0) = −4 a y/σ² for levels ±a.
        """
        axes = reception.values.real[:, None] if self._bits == 1 else np.stack((reception.values.real, reception.values.imag), 1)
        scale = -4 / np.sqrt(self._bits) / np.maximum(reception.noise_var, 1e-9)
        return np.clip(np.nan_to_num(axes * scale[:, None]), -MAX_LLR, MAX_LLR).ravel().astype(np.float32)
