# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc models`: what can be loaded by name."""

from __future__ import annotations

import argparse
import json

from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "models", help="list the models that can be named", description="Lists the models that can be named."
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ..hub import list_models

    entries = list_models()
    if arguments.json:
        print(json.dumps([{"name": e.name, "path": str(e.path), "bytes": e.size, **e.config} for e in entries], indent=2))
        return
    for entry in entries:
        rates = entry.config.get("rates") or [entry.config.get("rate", "?")]
        low, high = entry.config.get("snr_range_db", ("?", "?"))
        rates, size = ", ".join(rates), f"{entry.size / 1e6:.1f} MB"
        print(f"{entry.name:12} {entry.config['architecture']:8} rates {rates}; SNR {low} … {high} dB; {size}; {entry.path}")
