# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc data`: prepare public images to train on."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import extra
from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("data", help="prepare images to train on", description="Prepares public images to train on.")
    sets = parser.add_subparsers(title="sets", metavar="SET", required=True)
    sub = sets.add_parser(
        "openimages",
        help="Open Images: filtered, resized, in shards",
        description="Downloads a random sample of Open Images and packs it into WebDataset shards, with a manifest and the"
        " authors' credits. Killed at any time and started again with the same options, it goes on after the last finished shard.",
        epilog="example: diffjscc data openimages --out data/openimages --count 100000",
        # What is not given has the default of the library, which is not imported before the command runs.
        argument_default=argparse.SUPPRESS,
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder, or one to go on with")
    sub.add_argument("--split", help="train, validation or test (default: train)")
    sub.add_argument("--count", type=int, metavar="N", help="images (default: all of the split)")
    sub.add_argument("--min-side", type=int, metavar="PIXELS", help="skip images with a shorter side below this (default: 512)")
    sub.add_argument("--resize", type=int, metavar="PIXELS", help="reduce the longer side to this; 0 keeps the size (default: 768)")
    sub.add_argument("--format", help="jpg, webp or png (default: jpg)")
    sub.add_argument("--quality", type=int, metavar="Q", help="of JPEG and WebP, 1 to 100 (default: 95)")
    sub.add_argument("--shard-size", type=int, metavar="N", help="images per shard (default: 1000)")
    sub.add_argument("--seed", type=int, metavar="N", help="of the random choice (default: 0)")
    sub.add_argument("--workers", type=int, metavar="N", help="images in preparation at once (default: 8)")
    sub.add_argument(
        "--lists", metavar="URL_OR_DIR", help="where the lists are: an address, a folder or a .csv file (default: Open Images')"
    )
    sub.add_argument("--bucket", metavar="URL", help="where the images are: URL/SPLIT/ID.jpg (default: the bucket of the CVDF)")
    sub.add_argument(
        "--originals",
        action="store_true",
        help="the authors' originals from Flickr, verified by MD5, instead of the bucket's copies of up to 1024 pixels",
    )
    sub.add_argument("--timeout", type=float, metavar="S", help="wait for each piece of data (default: 30)")
    sub.add_argument("--retries", type=int, metavar="N", help="further attempts after a failed one (default: 5)")
    sub.add_argument("--backoff", type=float, metavar="S", help="before the first of them, doubled for each one (default: 0.5)")
    options.add_json(sub)
    sub.set_defaults(run=run_openimages, json=False)


def run_openimages(arguments: argparse.Namespace) -> None:
    with extra("train", "diffjscc data"):
        from tqdm import tqdm

        from ..train.openimages import Options, Progress, prepare

    given = {name: value for name, value in vars(arguments).items() if name in Options.__dataclass_fields__}
    bars: dict[str, tqdm] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in bars:
            for bar in bars.values():
                bar.close()
            images = progress.stage == "images"
            bars[progress.stage] = tqdm(
                total=progress.total,
                initial=progress.done,
                desc=progress.stage,
                unit="image" if images else "B",
                unit_scale=not images,
                dynamic_ncols=True,
            )
        bar = bars[progress.stage]
        if progress.stage == "images":
            bar.set_postfix_str(f"skipped {progress.skipped}", refresh=False)
        bar.update(progress.done - bar.n)

    try:
        summary = prepare(arguments.out, Options(**given), show)
    finally:
        for bar in bars.values():
            bar.close()
    if summary.missing:
        print(f"diffjscc: only {summary.images} of --count {arguments.count} images: the list ended", file=sys.stderr)
    print(json.dumps(asdict(summary)) if arguments.json else summary)
