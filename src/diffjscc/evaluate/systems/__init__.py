# SPDX-License-Identifier: GPL-3.0-or-later
"""Transmission systems behind one interface: each gets the same budget of channel uses, the same power and the same noise.

system = build_system("deepjscc")
sent = system.send(image, budget=3072, snr_db=1.0, channel="awgn", seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...fields import nearest
from .base import CHANNELS, Sent, System

__all__ = ["CHANNELS", "SYSTEMS", "Sent", "System", "build_system"]

#: Where the systems are, by name. Each is imported when one is built: some need large packages.
SYSTEMS = {
    "deepjscc": (".deepjscc", "DeepJSCC"),
    "deepjscc-adv": (".deepjscc", "AdversarialDeepJSCC"),
    "diffjscc": (".diffjscc", "DiffJSCC"),
    "ddnm": (".ddnm", "DDNM"),
    "softcast": (".softcast", "SoftCast"),
    "separate": (".separate", "Separate"),
    "capacity": (".capacity", "Capacity"),
}


def build_system(spec: str | Mapping[str, Any]) -> System:
    """A system from its name, or from a mapping with its name as ``system`` and its options.

        build_system("capacity")
        build_system({"system": "separate", "image_codec": "hevc", "code": "wifi-2/3", "constellation": "bpsk"})

    Raises ValueError, one line, for a name or an option that does not exist (with the nearest right one), a value that makes no
    sense, or a model or package that is missing.
    """
    options: dict[str, Any] = {"system": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = options.pop("system", None)
    if not isinstance(name, str):
        raise ValueError(f"{spec!r} is no system: write a name, such as deepjscc, or a mapping with the name as `system`")
    if name not in SYSTEMS:
        raise ValueError(f"no system is called '{name}'{nearest(name, list(SYSTEMS))}; there are {', '.join(SYSTEMS)}")
    module, cls = SYSTEMS[name]
    return getattr(import_module(module, __package__), cls).of(options)
