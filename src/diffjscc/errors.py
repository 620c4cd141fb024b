# SPDX-License-Identifier: GPL-3.0-or-later
"""How an error is told to a person: in one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """Around imports that need the extra ``name`` of this package: raises `MissingExtra` where one of them is not installed, or
    those that are do not fit each other.

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
    except MissingExtra:
        raise
    except (AttributeError, ImportError, RuntimeError) as error:
        # diffusers and transformers wrap what went wrong, twice and in several lines.
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        if _raised_here(cause):
            raise
        raise MissingExtra(
            f"{purpose} cannot start, because its packages do not fit each other: {one_line(cause, 150)}."
            f" Install them together: pip install 'diffjscc[{name}]'"
        ) from error


def _raised_here(error: BaseException) -> bool:
    """Whether an error was raised by a module of this package, and so is a fault of ours."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and Path(frames[-1][0].f_code.co_filename).is_relative_to(Path(__file__).parent)
