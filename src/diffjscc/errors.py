# SPDX-License-Identifier: GPL-3.0-or-later
"""How an error is told to a person: in one line."""

from __future__ import annotations


def one_line(text: object, limit: int = 300) -> str:
    """The first line of an error's message, or of any text, printable and cut to ``limit`` characters.

    Of an exception without a message it is the name of its type.
    """
    line = next((line for line in str(text).splitlines() if line.strip()), "")
    line = "".join(c if c.isprintable() else " " for c in line).strip()
    if not line and isinstance(text, BaseException):
        line = type(text).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"
