# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc doctor`: what of this machine's software and hardware works with this package, and what to type where it does not.

Every check runs other programs with a time limit, so that a driver that hangs or crashes is a finding as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import one_line
from .finding import Finding, State, wrong
from .gnuradio import check_gnuradio
from .hardware import check_audio, check_compute, check_radios
from .package import REINSTALL, check_features, check_models, check_python

__all__ = ["CHECKS", "Finding", "State", "examine"]

#: Checks by what they are about, in the order in which they are reported.
CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Python": check_python,
    "Models": check_models,
    "Compute": check_compute,
    "Features": check_features,
    "GNU Radio": check_gnuradio,
    "Radios": check_radios,
    "Audio": check_audio,
}


def examine() -> Iterator[tuple[str, Finding]]:
    """Runs all checks: what each finding is about, and the finding, as they come. A check that fails itself is a finding too."""
    for subject, check in CHECKS.items():
        try:
            for finding in check():
                yield subject, finding
        except Exception as error:
            yield subject, wrong(f"could not be examined: {type(error).__name__}: {one_line(error)}", REINSTALL)
