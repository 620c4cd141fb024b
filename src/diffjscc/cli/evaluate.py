# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc evaluate`: PSNR and MS-SSIM over a grid of rates and SNRs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import extra
from . import options

if TYPE_CHECKING:
    from ..codec import Codec
    from ..evaluate.refinement import Score
    from ..evaluate.sweep import GridPoint


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a codec over rates and SNRs, or a refiner",
        description="Sends every image at every rate and SNR and prints mean PSNR (dB) and MS-SSIM as a Markdown table; With"
        " --refiner: distortion and realism before and after refinement at one SNR (LPIPS and FID where their weights are there).",
        epilog="examples: diffjscc evaluate kodak/ --snrs 1 4 7 10 13; diffjscc evaluate kodak/ --refiner mini --snrs 1",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a folder of images, or a quoted pattern")
    parser.add_argument(
        "--rates", type=options.rate, nargs="+", metavar="R", help="channel uses per pixel (default: all that the codec has)"
    )
    parser.add_argument(
        "--snrs",
        type=options.snr_db,
        nargs="+",
        metavar="DB",
        help="SNRs in dB (default: 1 4 7 10 13; with --refiner: 1)",
    )
    parser.add_argument(
        "--passes",
        type=options.whole(1, 1_000_000),
        default=1,
        metavar="N",
        help="times that each image is sent (default: %(default)s)",
    )
    options.add_channel(parser)
    options.add_effort(parser)
    options.add_codec(parser)
    options.add_refiner(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with extra("evaluate", "diffjscc evaluate"):
        from tqdm import tqdm

    from ..evaluate.sweep import markdown_table, sweep
    from ..hub import load_codec
    from ..images import find_images

    refiner_options = options.refiner_options(arguments)
    if arguments.refiner and (arguments.channel != "awgn" or arguments.passes > 1 or arguments.erasures):
        raise ValueError("--refiner measures one pass over AWGN: leave out --channel, --passes and --erasures")
    codec = load_codec(arguments.codec, arguments.device)
    rates = [codec.check_rate(rate) for rate in arguments.rates or codec.rates]
    paths = [path for source in arguments.images for path in find_images(source)]
    if arguments.refiner:
        _evaluate_refiner(arguments, refiner_options, codec, rates, paths)
        return
    snrs_db = arguments.snrs or [1.0, 4.0, 7.0, 10.0, 13.0]
    measured = sweep(
        codec,
        paths,
        snrs_db,
        rates,
        arguments.channel,
        arguments.passes,
        arguments.seed,
        arguments.erasures,
        arguments.effort,
    )
    points = list(tqdm(measured, total=len(rates) * len(snrs_db), unit="point"))
    if arguments.json:
        _print_json(points)
    else:
        print(markdown_table(points))


def _evaluate_refiner(
    arguments: argparse.Namespace, refiner_options: dict, codec: Codec, rates: list[Fraction], paths: list[Path]
) -> None:
    from tqdm import tqdm

    from ..evaluate.refinement import markdown_scores, score_refiner
    from ..hub import load_refiner

    snrs_db = arguments.snrs or [1.0]
    if len(snrs_db) > 1:
        raise ValueError(f"--refiner measures at one SNR: give --snrs {snrs_db[0]:g} alone")
    refiner = load_refiner(arguments.refiner, arguments.device, captioner=arguments.captioner)
    measured = score_refiner(codec, refiner, paths, snrs_db[0], rates, arguments.seed, **refiner_options)
    scores = list(tqdm(measured, total=1 + 2 * len(rates), unit="row"))
    if arguments.json:
        _print_json(scores)
    else:
        print(markdown_scores(scores))


def _print_json(rows: Sequence[GridPoint] | Sequence[Score]) -> None:
    """Dataclasses with a rate, as JSON: NaN becomes null."""

    def plain(value: object) -> object:
        return None if isinstance(value, float) and math.isnan(value) else value

    print(json.dumps([{**{k: plain(v) for k, v in asdict(row).items()}, "rate": str(row.rate or "")} for row in rows], indent=2))
