# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of a package that are imported on first use (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def on_first_use(names: dict, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    names  globals() of the package
    homes  for each name, the module that has it, relative to the package
    """
    package = names["__name__"]

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = names[name] = getattr(import_module(homes[name], package), name)
        return value

    return get, lambda: sorted({*names, *homes})
