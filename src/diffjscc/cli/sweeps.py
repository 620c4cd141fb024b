# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands that run sweeps have in common: their options, and the progress bar."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import options

if TYPE_CHECKING:
    from ..evaluate.plan import Sweep
    from ..evaluate.run import Results

#: Failures that are shown one by one; of more, only the number is shown.
SHOWN_FAILURES = 10


def add_workers(parser: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=options.whole(1, 4096),
        metavar="N",
        help="processes that compute, of one thread each (default: all CPUs)",
    )
    parser.add_argument(
        "--cluster",
        default="",
        metavar="ADDRESS",
        help="compute on a Ray cluster: auto, or ray://HOST:PORT (default: on this machine, without Ray)",
    )


def run_with_bar(sweep: Sweep, out: Path, processes: int | None, cluster: str) -> Results:
    """Runs a sweep, with a progress bar and lines about what fails on standard error."""
    from tqdm import tqdm

    from ..evaluate.run import Progress, SweepRun

    class Bar(Progress):
        def __init__(self):
            self.bar: tqdm | None = None
            self.failures = 0

        def begin(self, rows: int, finished: int) -> None:
            self.bar = tqdm(total=rows, initial=finished, unit="row", desc=out.name, dynamic_ncols=True, smoothing=0.05)

        def row(self) -> None:
            if self.bar is not None:
                self.bar.update()

        def say(self, line: str) -> None:
            tqdm.write(f"diffjscc: {line}", file=sys.stderr)

        def fail(self, line: str) -> None:
            self.failures += 1
            if self.failures <= SHOWN_FAILURES:
                self.say(line)

    bar = Bar()
    run = SweepRun(sweep, out, processes, cluster, progress=bar)
    # As after Ctrl-C, the tables of what is finished are written.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        results = run.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        if bar.bar is not None:
            bar.bar.close()
    if results.failures:
        more = len(results.failures) - SHOWN_FAILURES
        also = f" ({more} more)" if more > 0 else ""
        bar.say(f"{len(results.failures)} rows are missing{also}: run the same command again to try them again")
    return results


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
