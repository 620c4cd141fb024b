# SPDX-License-Identifier: GPL-3.0-or-later
"""How an error is told to a person: in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def one_line(text: object, limit: int = 300) -> str:
    """The first line of an error's message, or of any text, printable and cut to ``limit`` characters.

    Of an exception without a message it is the name of its type.
    """
    line = next((line for line in str(text).splitlines() if line.strip()), "")
    line = "".join(c if c.isprintable() else " " for c in line).strip()
    if not line and isinstance(text, BaseException):
        line = type(text).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


class MissingExtra(ImportError, ValueError):
    """A package is not installed that only one of the optional features needs. The message is one line with the remedy.

    It is a ValueError too, because whoever asks for a feature that is not installed is told so like of any other bad input.
    """


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Around imports that need the extra ``name`` of this package: raises `MissingExtra` where one of them is not installed.

    purpose  what needs it, as the subject of the message: "refining", "diffjscc evaluate"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A module of our own that is not found is a fault of ours.
        if package in ("", "diffjscc"):
            raise
        raise MissingExtra(f"{purpose} needs {package}, which is not installed: pip install 'diffjscc[{name}]'") from None
