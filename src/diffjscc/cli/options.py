# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands share, and their types."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import NoReturn

from ..hub import DEFAULT_CODEC
from ..symbols import MAX_EFFORT, parse_rate, parse_snr_db

#: SNRs on the command line are within this of 0 dB: noise of 10^±10 times the symbols' power.
MAX_SNR_DB = 100


class OneLineParser(argparse.ArgumentParser):
    """A parser, as are its subparsers, that reports a bad option in one line like other bad input, without the usage."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            # argparse takes this for an option without a value, and checks nothing.
            if word.startswith("-") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: expected a value, not --")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def rate(text: str) -> Fraction:
    """A rate, channel uses per pixel."""
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def snr_db(text: str) -> float:
    """An SNR, dB."""
    try:
        value = parse_snr_db(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if abs(value) > MAX_SNR_DB:
        raise argparse.ArgumentTypeError(f"{value:g} dB: expected an SNR from -{MAX_SNR_DB} to {MAX_SNR_DB} dB")
    return value


def number(low: float, high: float, above: bool = False) -> Callable[[str], float]:
    """The type of a number from ``low`` to ``high``; with ``above``, greater than ``low``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value or value == low and not above) or not value <= high:
            raise argparse.ArgumentTypeError(f"'{text}': expected a number {'above' if above else 'from'} {low:g} to {high:g}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}': expected a whole number from {low} to {high}")
        return value

    return parse


def add_codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--codec", default=DEFAULT_CODEC, help="codec: a name of `diffjscc models`, or a folder (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, … (default: %(default)s)")


def add_effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--effort",
        type=whole(0, MAX_EFFORT),
        default=0,
        metavar="N",
        help="steps in which the encoder improves an image's symbols: slower, better (default: %(default)s)",
    )


def add_channel(parser: argparse.ArgumentParser) -> None:
    # Named here and not taken from diffjscc.channel, which imports torch.
    parser.add_argument("--channel", choices=("awgn", "rayleigh"), default="awgn", help="channel model (default: %(default)s)")
    parser.add_argument(
        "--erasures", type=number(0, 1), default=0.0, metavar="P", help="probability that a symbol is lost (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="of the noise (default: %(default)s)")


def add_refiner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refiner", metavar="REFINER", help="refine too, with a name of `diffjscc models`, such as mini, or a folder"
    )
    parser.add_argument("--sampler", metavar="S", help="ddpm, ddim, dpm++ or dpm++karras (default: the refiner's)")
    parser.add_argument("--steps", type=whole(1, 10_000), metavar="N", help="sampler steps (default: the refiner's)")
    parser.add_argument(
        "--strength",
        type=number(0, 1, above=True),
        metavar="X",
        help="share that is repainted, above 0 to 1 (default: the refiner's)",
    )
    parser.add_argument("--colour-fix", metavar="F", help="none, wavelet or adain (default: the refiner's)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the images show, for refiners that take text")
    parser.add_argument("--captioner", metavar="MODEL", help="BLIP-2 that says what they show: a folder, or an id on the hub")


def refiner_options(arguments: argparse.Namespace) -> dict:
    """What was said of `add_refiner`'s options, for the refiner's call. Raises ValueError where there is no --refiner."""
    names = ("sampler", "steps", "strength", "colour_fix", "prompt")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    useless = [*given, *(["captioner"] if arguments.captioner is not None else [])]
    if useless and not arguments.refiner:
        raise ValueError(f"--{useless[0].replace('_', '-')} is an option of refining: give --refiner too")
    return {"num_inference_steps" if name == "steps" else name: value for name, value in given.items()}


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
