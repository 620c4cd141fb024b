# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands share, and their types."""

from __future__ import annotations

import argparse
from fractions import Fraction

from ..hub import DEFAULT_CODEC
from ..symbols import parse_rate, parse_snr_db


def rate(text: str) -> Fraction:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def snr_db(text: str) -> float:
    try:
        return parse_snr_db(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--codec", default=DEFAULT_CODEC, help="codec: a name of `diffjscc models`, or a folder (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, … (default: %(default)s)")


def add_channel(parser: argparse.ArgumentParser) -> None:
    # Named here and not taken from diffjscc.channel, which imports torch.
    parser.add_argument("--channel", choices=("awgn", "rayleigh"), default="awgn", help="channel model (default: %(default)s)")
    parser.add_argument(
        "--erasures", type=float, default=0.0, metavar="P", help="probability that a symbol is lost (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")


def add_refiner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refiner", metavar="REFINER", help="refine too, with a name of `diffjscc models`, such as mini, or a folder"
    )
    parser.add_argument("--sampler", metavar="S", help="ddpm, ddim, dpm++ or dpm++karras (default: the refiner's)")
    parser.add_argument("--steps", type=int, metavar="N", help="sampler steps (default: the refiner's)")
    parser.add_argument("--strength", type=float, metavar="X", help="how much is repainted, above 0 to 1 (default: the refiner's)")
    parser.add_argument("--colour-fix", metavar="F", help="none, wavelet or adain (default: the refiner's)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the images show, for refiners that take text")
    parser.add_argument("--captioner", metavar="MODEL", help="BLIP-2 that says what they show: a folder, or an id on the hub")


def refiner_options(arguments: argparse.Namespace) -> dict:
    """What was said of `add_refiner`'s options, for the refiner's call."""
    names = ("sampler", "steps", "strength", "colour_fix", "prompt")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
