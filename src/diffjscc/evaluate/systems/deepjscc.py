# SPDX-License-Identifier: GPL-3.0-or-later
"""Deep joint source-channel coding: this project's codecs without refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from ...codec import Codec
from ...fields import Fields
from ...hub import DEFAULT_CODEC, load_codec
from ...symbols import MAX_EFFORT
from .base import Sent, check_transmission, rate_of_budget
from .transports import draw_fading, transport

DTYPES = ("float32", "bfloat16")


@lru_cache(maxsize=4)
def shared_codec(name: str, dtype: str) -> Codec:
    """A codec on the CPU, loaded once for all systems of a process."""
    import torch

    return load_codec(name, "cpu", getattr(torch, dtype))


@dataclass(frozen=True, kw_only=True)
class DeepJSCC(Fields):
    """image ─► codec ─► symbols ─► channel ─► codec ─► initial reconstruction

    codec   name or folder of a codec
    effort  steps in which the encoder looks for better symbols for the image, see `Codec.encode`
    dtype   "float32", which gives the same figures on every processor of a kind, or "bfloat16"
    """

    name: ClassVar[str] = "deepjscc"

    codec: str = DEFAULT_CODEC
    effort: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        self.check("effort", 0 <= self.effort <= MAX_EFFORT, f"from 0 to {MAX_EFFORT} steps")
        self.check("dtype", self.dtype in DTYPES, " or ".join(DTYPES))
        self._load()

    @property
    def rates(self) -> Sequence[Fraction] | None:
        return self._load().rates

    def send(self, image: Tensor, budget: int, snr_db: float, channel: str, seed: int) -> Sent:
        """As `System.send`; the budget must be that of one of the codec's rates."""
        check_transmission(image, budget, snr_db, channel)
        codec = self._load()
        rate = rate_of_budget(image, budget, codec.name, codec.rates)
        symbols = codec.encode(image, snr_db, rate, fading=draw_fading(channel, seed), effort=self.effort)
        reception = transport(symbols, channel, snr_db, seed)
        received = codec.decode(reception, symbols.header).float().cpu()
        return Sent(received, len(symbols.values), {"codec": codec.name, "rx_snr_db": round(float(reception.snr_db), 3)})

    def _load(self) -> Codec:
        return shared_codec(self.codec, self.dtype)


@dataclass(frozen=True, kw_only=True)
class AdversarialDeepJSCC(DeepJSCC):
    """DeepJSCC-adv, the paper's baseline: a codec that was trained on with a patch critic.

    codec  folder of a codec that recipe ``codec-adversarial`` has trained; none comes with the package
    """

    name: ClassVar[str] = "deepjscc-adv"

    codec: str = ""

    def __post_init__(self):
        if not self.codec:
            raise ValueError(
                "deepjscc-adv needs a codec, and none comes with the package: make one by "
                "`diffjscc train codec-adversarial --data … --out RUN start_from=CODEC`, and write codec: RUN/model"
            )
        super().__post_init__()
