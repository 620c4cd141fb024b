# SPDX-License-Identifier: GPL-3.0-or-later
"""Frozen dataclasses whose values a person writes in YAML: types, ranges, and the nearest right name for a wrong key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

#: What to write for a field, by its annotation.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping of keys to values",
    "list[str]": "a list of texts, such as [1/128, 1/16]",
    "list[int]": "a list of whole numbers, such as [1, 2]",
    "list[float]": "a list of numbers, such as [0, 14]",
}

Self = TypeVar("Self", bound="Fields")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Base of these dataclasses: converts each value to the type of its field.

    Raises ValueError for a value of another type; subclasses check ranges with `check`.
    """

    #: Stands before the names of fields in messages, with a dot: "channel.".
    prefix: ClassVar[str] = ""

    #: Fields that are such dataclasses themselves.
    nested: ClassVar[Mapping[str, type[Fields]]] = {}

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in self.nested:
                inner = self.nested[field.name]
                converted = value if isinstance(value, inner) else inner.of(value)
            else:
                try:
                    converted = convert(str(field.type), value)
                except (TypeError, ValueError, OverflowError):
                    expected = EXPECTED[str(field.type)]
                    raise ValueError(f"{self.prefix}{field.name} = {value!r}: expected {expected}") from None
            object.__setattr__(self, field.name, converted)

    def check(self, name: str, ok: bool, expected: str) -> None:
        """Raises ValueError for field ``name`` unless ``ok``: "NAME = VALUE: must be EXPECTED"."""
        if not ok:
            raise ValueError(f"{self.prefix}{name} = {getattr(self, name)!r}: must be {expected}")

    @classmethod
    def of(cls: type[Self], values: Any) -> Self:
        """From a mapping, as YAML gives it. Raises ValueError for a key that is unknown or missing, and for a wrong value."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{cls.prefix.rstrip('.')} = {values!r}: expected {EXPECTED['dict']}")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown_key(cls.prefix, str(name), names)
        required = (f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given, such as {missing[0]}=… at the end of the command")
        return cls(**values)


def convert(annotation: str, value: Any) -> Any:
    """A value as the type that an annotation names. Raises TypeError, ValueError or OverflowError where it is none.

    YAML 1.1 reads 1e-4 as text, and ``no`` as false: both are taken as they were meant.
    """
    if annotation.startswith("list["):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        return [convert(annotation[5:-1], item) for item in value]
    if annotation == "bool":
        if not isinstance(value, bool):
            raise TypeError
        return value
    if annotation == "str":
        if value is False:
            return "no"
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError
        return str(value)
    if annotation == "dict":
        if not isinstance(value, Mapping):
            raise TypeError
        return dict(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    number = float(value)
    if not math.isfinite(number) or (annotation == "int" and not number.is_integer()):
        raise ValueError
    return int(number) if annotation == "int" else number


def unknown_key(prefix: str, name: str, known: Sequence[str]) -> ValueError:
    """What is raised for a key that does not exist; ``prefix`` stands before all of them."""
    near = nearest(name, known, prefix)
    return ValueError(f"no key is called '{prefix}{name}'{near}; there are {', '.join(prefix + other for other in known)}")


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """ " (did you mean 'x'?)", or nothing where no known name is like it."""
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean '{prefix}{near[0]}'?)" if near else ""
