# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc figures`: the paper's figures with the models at hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import extra
from . import sweeps


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "figures",
        help="draw the paper's figures",
        description="Runs the sweep of one of the paper's figures and draws it, as PNG and PDF, with the table behind it as CSV and"
        " Parquet. 3: quality over rate at 1 dB; 4: over SNR at rate 1/128; 6: what the refiner is told; 7: sampling steps."
        " Killed at any moment and started again with the same arguments, it goes on where it was.",
        epilog="example: diffjscc figures 3 --images kodak/ --out results/ --report results/figure3.html",
    )
    parser.add_argument("number", type=int, choices=(3, 4, 6, 7), metavar="3|4|6|7", help="of the figure in the paper")
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="changes to the figure's sweep, such as repeats=1 or snrs_db=[1,13]"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the figure and its tables")
    parser.add_argument("--images", nargs="+", default=(), metavar="IMAGE", help="images or folders (default: kodak/)")
    parser.add_argument("--codec", default="", help="codec of every system that has one (default: lite)")
    parser.add_argument("--refiner", default="", help="refiner of every system that has one (default: mini)")
    sweeps.add_workers(parser)
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with curves, table and images, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with extra("evaluate", "diffjscc figures"):
        import matplotlib  # noqa: F401
        import pyarrow  # noqa: F401
        import tqdm  # noqa: F401
        import yaml  # noqa: F401

    from ..evaluate.figures import draw, figure_sweep

    number = arguments.number
    sweep = figure_sweep(number, arguments.images, arguments.codec, arguments.refiner, arguments.changes)
    if arguments.report is not None:
        from ..evaluate.report import check_report_path, write_report

        check_report_path(arguments.report)
    results = sweeps.run_with_bar(sweep, arguments.out / f"figure{number}", arguments.processes, arguments.cluster)
    for line in draw(number, sweep, results.summary, arguments.out):
        print(f"diffjscc: {line}", file=sys.stderr)
    if arguments.report is not None:
        write_report(results, arguments.report)
    print(f"figure written to {arguments.out / f'figure{number}.png'}")
    return 1 if results.failures else 0
