# SPDX-License-Identifier: GPL-3.0-or-later
"""The systems of an experiment: what turns images into symbols on the air, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ..fields import Fields, nearest
from ..hub import DEFAULT_CODEC, find_model, load_codec
from ..symbols import MAX_EFFORT, Reception, Symbols


class System(Protocol):
    """What a plan compares.

    on_air  id of the codec that its bursts' headers carry
    rates   channel uses per pixel that it has; None: any
    """

    on_air: str
    rates: Sequence[Fraction] | None

    def load(self, device: str, codec: str = "") -> Any:
        """An object with `encode` and `decode` as a Codec has them; slow the first time.

        codec  name or folder of another codec than the plan's
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Analog(Fields):
    """image ─► codec ─► symbols; ``system: deepjscc``

    codec   name or folder of a codec
    effort  steps in which the encoder looks for better symbols
    """

    prefix: ClassVar[str] = ""

    codec: str = DEFAULT_CODEC
    effort: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.check("effort", 0 <= self.effort <= MAX_EFFORT, f"from 0 to {MAX_EFFORT} steps")
        if find_model(self.codec).codec is None:
            raise ValueError(f"codec = {self.codec!r}: is a refiner alone: see `diffjscc models`")

    @property
    def on_air(self) -> str:
        return find_model(self.codec).name

    @property
    def rates(self) -> Sequence[Fraction] | None:
        return find_model(self.codec).rates

    def load(self, device: str, codec: str = "") -> Any:
        return _Coder(load_codec(codec or self.codec, device), self.effort)


class _Coder:
    """A codec with an encoder's effort."""

    def __init__(self, codec: Any, effort: int):
        self._codec, self._effort = codec, effort

    def encode(self, image: Tensor, snr_db: float, rate: Fraction, image_id: int) -> Symbols:
        return self._codec.encode(image, snr_db, rate, image_id=image_id, effort=self._effort)

    def decode(self, reception: Reception, header: Any) -> Tensor:
        return self._codec.decode(reception, header)


@dataclass(frozen=True, kw_only=True)
class Digital(Fields):
    """image ─► HEVC still ─► IEEE 802.11n LDPC ─► BPSK or QPSK, in the same bursts; ``system: separate``

    code           "wifi-1/2", "wifi-2/3", "wifi-3/4" or "wifi-5/6"
    constellation  "bpsk" or "qpsk"
    """

    rates: ClassVar[Sequence[Fraction] | None] = None
    on_air: ClassVar[str] = "hevc-ldpc"

    image_codec: str = "hevc"
    code: str = "wifi-1/2"
    constellation: str = "qpsk"

    def __post_init__(self):
        super().__post_init__()
        self.check("image_codec", self.image_codec == "hevc", "hevc")
        self.load("cpu")

    def load(self, device: str, codec: str = "") -> Any:
        from ..evaluate.systems.hevc_ldpc import HevcLdpc

        return HevcLdpc(self.code, self.constellation)


#: Names in plans, as sweeps have them.
SYSTEMS: dict[str, Any] = {"deepjscc": Analog, "separate": Digital}


def build_system(spec: str | Mapping[str, Any]) -> System:
    """A system from a plan: its name, or a mapping with the key ``system`` and options. Raises ValueError, one line."""
    options = {"system": spec} if isinstance(spec, str) else spec
    if not isinstance(options, Mapping) or "system" not in options:
        raise ValueError(f"{spec!r}: expected a name, or options with the key 'system', such as {{system: deepjscc, codec: lite}}")
    name = options["system"]
    if name not in SYSTEMS:
        raise ValueError(f"no system is called '{name}'{nearest(str(name), list(SYSTEMS))}; there are {', '.join(SYSTEMS)}")
    return SYSTEMS[name].of({key: value for key, value in options.items() if key != "system"})
