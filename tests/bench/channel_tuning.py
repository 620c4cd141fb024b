# SPDX-License-Identifier: GPL-3.0-or-later
"""What fine-tuning a codec to a channel gives there, and what it costs elsewhere, as Markdown tables.

    python tests/bench/channel_tuning.py kodak/ --bursts runs/bursts/model --echoes runs/echoes/model --peaks runs/peaks/model

Images cross the air interface (ofdm256, with random times, carrier offsets and phases; the receiver is burst_rx) and

    bursts  come in ten bursts each, of which one, drawn at random, is lost
    echoes  meet TDL-B of TR 38.901, 300 ns RMS at 1 Msps, 10 Hz Doppler, in GNU Radio's model, each burst by itself
    peaks   are cut at 4 dB above the mean power

Each codec is measured there and over noise alone. Both codecs meet the same noise, losses and echoes.
"""

import argparse
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from air_interface_images import BURST_SYMBOLS, Images
from air_interface_link import Channel, Fading

from diffjscc.hub import DEFAULT_CODEC
from diffjscc.symbols import parse_rate

#: Rates and SNRs, dB, that are measured.
POINTS = (("1/128", 1.0), ("1/32", 7.0), ("1/16", 13.0))

#: Symbols of a Kodak image at rate 1.
PIXELS = 768 * 512

#: The delay line: profile of TR 38.901, RMS delay spread in seconds, Doppler in Hz.
PROFILE, DELAY_SPREAD, DOPPLER = "B", 300e-9, 10.0

#: Samples per second, for what is given in seconds.
SAMPLE_RATE = 1e6


@dataclass(frozen=True)
class DelayLine(Fading):
    """TDL-B for GNU Radio's selective fading model, which interpolates between whole samples."""

    doppler: float = DOPPLER
    filter_len = 16

    #: Samples by which all of it is late, so that the interpolating filter has room before the first tap.
    LATE = 6

    @cached_property
    def _profile(self):
        from sionna.phy.channel.tr38901 import TDL

        return TDL(PROFILE, DELAY_SPREAD, carrier_frequency=1e9, precision="single", device="cpu")

    @property
    def delays(self):
        return [self.LATE + SAMPLE_RATE * float(delay) for delay in self._profile.delays]

    @property
    def gains(self):
        return [math.sqrt(power) for power in self._profile.mean_powers]


@lru_cache
def images_of(folder, codec):
    return Images(folder, "ofdm256", codec)


def mean_psnr(folder, codec, case, rate, snr_db, seed):
    """Mean PSNR, dB, of a folder's images; ``case`` is "bursts", "echoes", "peaks" or "noise"."""
    channel = Channel(snr_db, fading=DelayLine() if case == "echoes" else None)
    options = {"burst_symbols": math.ceil(PIXELS * parse_rate(rate) / 10) if case == "bursts" else BURST_SYMBOLS}
    if case == "bursts":
        options["lose_one"] = True
    if case == "peaks":
        options["clip_db"] = 4.0
    values, _ = images_of(folder, codec).air(rate, channel, np.random.default_rng(seed), **options)
    return float(np.mean(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder with the Kodak images")
    for case in ("bursts", "echoes", "peaks"):
        parser.add_argument(f"--{case}", metavar="CODEC", help=f"codec fine-tuned to {case}")
    parser.add_argument("--codec", default=DEFAULT_CODEC, help="codec that was fine-tuned (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for case in ("bursts", "echoes", "peaks"):
        tuned = getattr(arguments, case)
        if not tuned:
            continue
        print(f"| {case} | {arguments.codec} | tuned | gain | noise alone: {arguments.codec} | tuned | gain |")
        print("|---" * 7 + "|")
        for rate, snr_db in POINTS:
            cells = []
            for where in (case, "noise"):
                before, after = (
                    mean_psnr(arguments.images, codec, where, rate, snr_db, arguments.seed) for codec in (arguments.codec, tuned)
                )
                cells += [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
            print(f"| {rate}, {snr_db:g} dB | " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
