# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc doctor`: what works here, and what to type for what does not."""

from __future__ import annotations

import argparse
import json

from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what works on this machine, and what to type for what does not",
        description="Looks at Python and its packages, models, GPUs, GNU Radio and its companion, radios and sound cards. Exits"
        " with 1 where something is wrong that should work; what is merely absent is no fault.",
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..doctor import State, examine

    marks = {State.GOOD: "✓", State.ABSENT: "–", State.WRONG: "✗"}
    rows, before, faults = [], "", 0
    for subject, finding in examine():
        faults += finding.state is State.WRONG
        if arguments.json:
            rows.append({"subject": subject, "state": finding.state.value, "what": finding.what, "remedy": finding.remedy})
            continue
        print(f"{subject if subject != before else '':10} {marks[finding.state]} {finding.what}", flush=True)
        if finding.remedy:
            print(f"{'':10}   → {finding.remedy}", flush=True)
        before = subject
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    return 1 if faults else 0
