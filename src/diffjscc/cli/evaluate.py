# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc evaluate`: PSNR and MS-SSIM over a grid of rates and SNRs."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict

from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a codec over rates and SNRs",
        description="Sends every picture at every rate and SNR and prints mean PSNR (dB) and MS-SSIM as a Markdown table.",
        epilog="example: diffjscc evaluate kodak/ --snrs 1 4 7 10 13",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, a folder of pictures, or a quoted pattern")
    parser.add_argument(
        "--rates", type=options.rate, nargs="+", metavar="R", help="channel uses per pixel (default: all that the model has)"
    )
    parser.add_argument(
        "--snrs",
        type=options.snr_db,
        nargs="+",
        default=[1.0, 4.0, 7.0, 10.0, 13.0],
        metavar="DB",
        help="SNRs in dB (default: 1 4 7 10 13)",
    )
    parser.add_argument("--passes", type=int, default=1, metavar="N", help="times that each picture is sent (default: %(default)s)")
    options.add_channel(parser)
    options.add_model(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..evaluate.sweep import markdown_table, sweep
    from ..hub import load_codec
    from ..images import find_images

    if arguments.passes < 1:
        raise ValueError(f"--passes {arguments.passes}: must be at least 1")
    codec = load_codec(arguments.model, arguments.device)
    rates = [codec.check_rate(rate) for rate in arguments.rates or codec.rates]
    pictures = [path for source in arguments.images for path in find_images(source)]
    points = sweep(
        codec,
        pictures,
        arguments.snrs,
        rates,
        arguments.channel,
        arguments.passes,
        arguments.seed,
        arguments.erasures,
    )
    points = list(tqdm(points, total=len(rates) * len(arguments.snrs), unit="point"))
    if arguments.json:
        rows = [{**asdict(point), "rate": str(point.rate)} for point in points]
        print(
            json.dumps(
                [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows], indent=2
            )
        )
    else:
        print(markdown_table(points))
