# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc models`: what can be loaded by name, and how more gets there."""

from __future__ import annotations

import argparse
import json

from ..errors import extra
from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "models",
        help="list, import and fetch models",
        description="Lists the models that can be named; with a command, adds one.",
    )
    options.add_json(parser)
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    importer = actions.add_parser(
        "import",
        help="turn an authors' checkpoint into a model",
        description="Turns config.yaml and model.ckpt, in a folder or on the Hugging Face hub, into a codec, a refiner or both, as"
        " the checkpoint has.",
        epilog="example: diffjscc models import checkpoints/DiffJSCC-OpenImage-CBR-1-384",
    )
    importer.add_argument("source", metavar="PATH_OR_HUB_ID", help="folder with config.yaml and model.ckpt, or an id on the hub")
    importer.add_argument("--name", help="name of the model: letters, digits, -, _ and . (default: the source's)")
    importer.set_defaults(run=run_import)
    puller = actions.add_parser(
        "pull",
        help="fetch a published checkpoint from the hub",
        description="Fetches one of the authors' published checkpoints from the Hugging Face hub, and imports it.",
    )
    puller.add_argument("name", metavar="NAME", help="such as DiffJSCC-OpenImage-CBR-1-384")
    puller.set_defaults(run=run_pull)
    for action in (importer, puller):
        action.add_argument("--replace", action="store_true", help="replace a model of that name, once the new one is complete")
        action.add_argument(
            "--tokenizer", metavar="PATH_OR_HUB_ID", help="CLIP tokenizer (default: Stable Diffusion 2.1-base's, from the hub)"
        )


def run(arguments: argparse.Namespace) -> None:
    from ..hub import survey_models

    entries, broken = survey_models()
    if arguments.json:
        rows = [_as_json(entry) for entry in entries]
        rows += [{"name": model.name, "path": str(model.path), "broken": model.reason} for model in broken]
        print(json.dumps(rows, indent=2))
        return
    for entry in entries:
        what = [_codec(entry)] if entry.codec else []
        what += ["refiner"] if entry.refiner else []
        print(f"{entry.name:12} {'; '.join(what)}; {entry.size / 1e6:.1f} MB; {entry.path}")
    for model in broken:
        print(f"{model.name:12} broken: {model.reason}")


def run_import(arguments: argparse.Namespace) -> None:
    with extra("refine", "importing a checkpoint"):
        from ..checkpoints import import_checkpoint

    _report(import_checkpoint(arguments.source, arguments.name, arguments.tokenizer, replace=arguments.replace))


def run_pull(arguments: argparse.Namespace) -> None:
    with extra("refine", "importing a checkpoint"):
        from ..checkpoints import pull

    _report(pull(arguments.name, arguments.tokenizer, arguments.replace))


def _report(imported) -> None:
    for name in imported.ignored:
        print(f"ignored: {name}")
    print(f"model '{imported.model.name}' written to {imported.model.path}: {imported.summary}")


def _codec(entry) -> str:
    low, high = entry.codec.get("snr_range_db", ("?", "?"))
    return f"codec {entry.codec['architecture']}, rates {', '.join(map(str, entry.rates))}, SNR {low} … {high} dB"


def _as_json(entry) -> dict:
    return {
        **(entry.codec or {}),
        "name": entry.name,
        "path": str(entry.path),
        "bytes": entry.size,
        "refiner": entry.refiner is not None,
    }
