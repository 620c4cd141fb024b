# SPDX-License-Identifier: GPL-3.0-or-later
"""The `diffjscc` command: parses, calls the library, prints. It has no logic of its own.

Nothing here imports torch until a command runs, so that --help is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import data, doctor, evaluate, figures, models, options, serve, simulate, train


def make_parser() -> options.OneLineParser:
    """The command line, with its subcommands."""
    parser = options.OneLineParser(
        prog="diffjscc",
        description="Send images over noisy channels as analog symbols, and get them back degraded but never lost.",
    )
    parser.add_argument("--version", action="version", version=f"diffjscc {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (simulate, models, evaluate, figures, train, data, serve, doctor):
        module.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line on standard error for bad input.

    Raises SystemExit as argparse does: with 2 after one line for a bad option, with 0 after --help and --version.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one run only; changes to a recipe may stand anywhere.
    if rest and hasattr(arguments, "changes") and all("=" in text and not text.startswith("-") for text in rest):
        arguments.changes += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return arguments.run(arguments) or 0
    except ValueError as error:
        print(f"diffjscc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has read enough. What is still buffered goes nowhere, or Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("diffjscc: interrupted", file=sys.stderr)
        return 130
