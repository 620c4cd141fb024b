# SPDX-License-Identifier: GPL-3.0-or-later
"""What encoder effort gives in PSNR and costs in time, as a Markdown table.

python tests/bench/encoder_effort.py kodak/
"""

import argparse
import time
from dataclasses import dataclass

import torch

from diffjscc.channel import transmit
from diffjscc.cli import options
from diffjscc.codec import Codec
from diffjscc.hub import load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr

#: Rates and SNRs, dB, that are measured.
POINTS = (("1/16", 13.0), ("1/128", 1.0), ("1/16", 1.0), ("1/32", 1.0))


@dataclass(frozen=True)
class Measured:
    """Means over images: PSNR in dB, and processor seconds that encoding took, of all threads together."""

    psnr_db: float
    seconds: float


def measure(codec: Codec, images: list[torch.Tensor], rate: str, snr_db: float, effort: int) -> Measured:
    """One pass over AWGN; an image meets the same noise at every effort."""
    decibels, seconds = [], 0.0
    for index, image in enumerate(images):
        start = time.process_time()
        symbols = codec.encode(image, snr_db, rate, effort=effort)
        seconds += time.process_time() - start
        decibels.append(psnr(codec.decode(transmit(symbols, snr_db, seed=index), symbols.header), image))
    return Measured(sum(decibels) / len(images), seconds / len(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--efforts", type=int, nargs="+", default=[0, 40, 100], metavar="N")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every so manyth image")
    options.add_codec(parser)
    arguments = parser.parse_args()
    images = [to_tensor(read_image(path)) for path in find_images(arguments.images)[:: arguments.every]]
    codec = load_codec(arguments.codec, arguments.device)
    print(f"{len(images)} images, {torch.get_num_threads()} CPU threads; PSNR in dB (gain), processor seconds to encode an image\n")
    print("| rate, SNR | " + " | ".join(f"effort {effort}" for effort in arguments.efforts) + " |")
    print("|---" * (len(arguments.efforts) + 1) + "|")
    for rate, snr_db in POINTS:
        row = [measure(codec, images, rate, snr_db, effort) for effort in arguments.efforts]
        cells = [f"{m.psnr_db:.2f} ({m.psnr_db - row[0].psnr_db:+.2f}), {m.seconds:.2f} s" for m in row]
        print(f"| {rate}, {snr_db:g} dB | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
