# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc evaluate`: a sweep of transmission systems, or one codec or refiner over a grid of rates and SNRs."""

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
from . import options, sweeps

if TYPE_CHECKING:
    from ..codec import Codec
    from ..evaluate.refinement import Score
    from ..evaluate.sweep import GridPoint


#: Options that only make sense with a sweep, or only with images.
SWEEP_OPTIONS = ("out", "processes", "cluster", "report")
CODEC_OPTIONS = (
    *("rates", "snrs", "passes", "channel", "erasures", "seed", "effort", "codec", "device"),
    *("refiner", "sampler", "steps", "strength", "colour_fix", "prompt", "captioner"),
)


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="compare transmission systems in a sweep, or measure a codec or a refiner",
        description="SWEEP.yaml: every system sends every image at every rate and SNR over every channel; the tables are written to"
        " --out. Killed at any moment and started again with the same arguments, it goes on where it was."
        " IMAGE: measures one codec, and prints mean PSNR (dB) and MS-SSIM as a Markdown table; with --refiner: distortion and"
        " realism before and after refinement at one SNR (LPIPS and FID where their weights are there).",
        epilog="examples: diffjscc evaluate figure4 images=kodak/ --out results/figure4 --report figure4.html;"
        " diffjscc evaluate kodak/ --snrs 1 4 7 10 13; diffjscc evaluate kodak/ --refiner mini --snrs 1",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="SWEEP.yaml | IMAGE",
        help="a sweep: a file, or the name of one that comes with the package, and KEY=VALUE changes to it; or else: an image, a"
        " folder of images, or a quoted pattern",
    )
    sweep = parser.add_argument_group("options of a sweep")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="folder of the tables (default: the sweep's name)")
    sweeps.add_workers(sweep)
    sweep.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with curves, table and images, too")
    codec = parser.add_argument_group("options where images are given")
    codec.add_argument(
        "--rates", type=options.rate, nargs="+", metavar="R", help="channel uses per pixel (default: all that the codec has)"
    )
    codec.add_argument(
        "--snrs",
        type=options.snr_db,
        nargs="+",
        metavar="DB",
        help="SNRs in dB (default: 1 4 7 10 13; with --refiner: 1)",
    )
    codec.add_argument(
        "--passes",
        type=options.whole(1, 1_000_000),
        default=1,
        metavar="N",
        help="times that each image is sent (default: %(default)s)",
    )
    options.add_channel(codec)
    options.add_effort(codec)
    options.add_codec(codec)
    options.add_refiner(codec)
    options.add_json(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    with extra("evaluate", "diffjscc evaluate"):
        import tqdm  # noqa: F401
        import yaml  # noqa: F401

    if not _is_sweep(arguments.images[0]):
        _refuse(arguments, SWEEP_OPTIONS, "is an option of sweeps: give a SWEEP.yaml, see `diffjscc evaluate --help`")
        run_codec(arguments)
        return 0
    _refuse(arguments, CODEC_OPTIONS, "is no option of sweeps: change the sweep instead, such as snrs_db=[1,13]")
    return run_sweep(arguments)


def _is_sweep(text: str) -> bool:
    """Whether this names a sweep: a YAML file, or one of the package's. A folder of images of the same name is ``./NAME``."""
    if Path(text).suffix.lower() in (".yaml", ".yml"):
        return True
    if not text.replace("-", "").isalnum():
        return False
    from ..packaged import packaged_names

    return text in packaged_names("sweeps")


def _refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(arguments, name) != arguments.parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} {why}")


def run_sweep(arguments: argparse.Namespace) -> int:
    from ..evaluate.duels import duels, verdicts
    from ..evaluate.plan import load_sweep
    from ..evaluate.table import markdown_summary

    sweep = load_sweep(arguments.images[0], arguments.images[1:])
    out = arguments.out or Path(Path(arguments.images[0]).stem)
    if arguments.report is not None:
        from ..evaluate.report import check_report_path, write_report

        check_report_path(arguments.report)
    results = sweeps.run_with_bar(sweep, out, arguments.processes, arguments.cluster)
    if arguments.report is not None:
        write_report(results, arguments.report)
    if arguments.json:
        print(json.dumps([_finite(row) for row in results.summary], indent=2, ensure_ascii=False))
    else:
        print(markdown_summary(results.summary))
        for line in verdicts(duels(sweep, results.rows)):
            print(f"\n{line}")
    return 1 if results.failures else 0


def run_codec(arguments: argparse.Namespace) -> None:
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


def _finite(row: dict[str, object]) -> dict[str, object]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
