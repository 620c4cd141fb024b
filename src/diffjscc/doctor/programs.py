# SPDX-License-Identifier: GPL-3.0-or-later
"""Running other programs, none of which may hang or bring the examination down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import one_line

#: How long a program may take, seconds. Drivers look for devices on the network for some seconds.
TIME_LIMIT = 20.0


@dataclass(frozen=True)
class Ran:
    """How a program ended.

    output  what it wrote to standard output
    errors  what it wrote to standard error
    fault   why it failed, in one line; "" where it succeeded
    """

    output: str
    fault: str
    errors: str = ""


def find(name: str) -> str | None:
    """The path of a program, or None where it is not installed."""
    return shutil.which(name)


def run(command: Sequence[str], time_limit: float = TIME_LIMIT, variables: Mapping[str, str] | None = None) -> Ran:
    """Runs a program without input, with more environment ``variables``.

    It, and what it started, is killed at the end of ``time_limit`` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
    except OSError as error:
        return Ran("", one_line(error.strerror or error))
    try:
        output, errors = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Ran("", f"did not answer within {time_limit:g} s")
    if process.returncode < 0:
        return Ran(output, f"ended by {signal.Signals(-process.returncode).name}", errors)
    if process.returncode:
        # The last line of a Python trace says what it was about.
        lines = [line for line in errors.splitlines() if line.strip()] or [f"exit status {process.returncode}"]
        return Ran(output, one_line(lines[-1]), errors)
    return Ran(output, "", errors)
