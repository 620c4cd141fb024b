# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """GOOD: works. ABSENT: not there, and only some uses need it. WRONG: does not work and should."""

    GOOD = "good"
    ABSENT = "absent"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    what    what was found, for a person
    remedy  what to type; "" where nothing needs to be done
    """

    state: State
    what: str
    remedy: str = ""


def good(what: str) -> Finding:
    return Finding(State.GOOD, what)


def absent(what: str, remedy: str = "") -> Finding:
    return Finding(State.ABSENT, what, remedy)


def wrong(what: str, remedy: str) -> Finding:
    return Finding(State.WRONG, what, remedy)
