# SPDX-License-Identifier: GPL-3.0-or-later
"""JSCC autoencoders: `lite` (the bundled default), `resnet` (the paper's), `swin`."""

from __future__ import annotations

from .codec import Codec
from .latent import ChannelState
from .lite import LiteCodec
from .resnet import ResnetCodec
from .swin import SwinCodec

ARCHITECTURES: dict[str, type[Codec]] = {cls.architecture: cls for cls in (LiteCodec, ResnetCodec, SwinCodec)}


def build_codec(config: dict) -> Codec:
    """An untrained codec from a configuration: {"architecture": "lite" | "resnet" | "swin", …keyword arguments}.

    Raises ValueError for an architecture or an option that does not exist.
    """
    options = dict(config)
    architecture = options.pop("architecture", None)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"codec architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](**options)
    except TypeError as error:
        raise ValueError(f"codec '{architecture}': {error}") from None


__all__ = ["ARCHITECTURES", "ChannelState", "Codec", "LiteCodec", "ResnetCodec", "SwinCodec", "build_codec"]
