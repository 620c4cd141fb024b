# SPDX-License-Identifier: GPL-3.0-or-later
"""What encoder effort gives in PSNR and costs in time, as a Markdown table.

    python tests/bench/encoder_effort.py kodak/ --journal effort.jsonl

It takes hours on a CPU. With --journal every finished measurement is kept in a file, and the same command goes on from there;
--crop measures the middle of each image only.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from diffjscc.channel import transmit
from diffjscc.cli import options
from diffjscc.hub import load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr

#: Rates and SNRs, dB, that are measured.
POINTS = ("1/16@13", "1/128@1", "1/16@1", "1/32@1")


class Journal:
    """Measurements by what was measured, kept in a file of JSON lines where there is one."""

    def __init__(self, path: Path | None):
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._found = {tuple(key): value for key, value in map(json.loads, lines)}

    def __call__(self, key, measure):
        """What is known for ``key``, a tuple of texts and numbers, or ``measure()`` gives."""
        if key not in self._found:
            self._found[key] = measure()
            if self._path:
                with open(self._path, "a") as file:
                    file.write(json.dumps([key, self._found[key]]) + "\n")
        return self._found[key]


def measure(codec, image, seed, point, effort):
    """[PSNR in dB, processor seconds that encoding took]; an image meets the same noise at every effort."""
    rate, _, snr_db = point.partition("@")
    start = time.process_time()
    symbols = codec.encode(image, float(snr_db), rate, effort=effort)
    seconds = time.process_time() - start
    return [psnr(codec.decode(transmit(symbols, float(snr_db), seed=seed), symbols.header), image), seconds]


def middle(image, size):
    """The middle of an image (3,H,W), ``size`` pixels wide and two thirds of that high, or the other way round."""
    height, width = (size * 2 // 3, size) if image.shape[2] >= image.shape[1] else (size, size * 2 // 3)
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width].contiguous()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--efforts", type=int, nargs="+", default=[0, 40, 100], metavar="N")
    parser.add_argument("--points", nargs="+", default=POINTS, metavar="RATE@SNR", help="default: %(default)s")
    parser.add_argument("--crop", type=int, metavar="N", help="measure the middle of each image alone, N pixels on the longer side")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep what is measured here, and go on from it")
    options.add_codec(parser)
    arguments = parser.parse_args()
    images = {path.name: to_tensor(read_image(path)) for path in find_images(arguments.images)}
    if arguments.crop:
        images = {name: middle(image, arguments.crop) for name, image in images.items()}
    codec, journal = load_codec(arguments.codec, arguments.device), Journal(arguments.journal)
    found = {}
    with tqdm(total=len(images) * len(arguments.points) * len(arguments.efforts)) as progress:
        for seed, (name, image) in enumerate(images.items()):
            for point in arguments.points:
                for effort in arguments.efforts:
                    key = (arguments.codec, name, arguments.crop, point, effort)
                    scores = journal(key, lambda args=(codec, image, seed, point, effort): measure(*args))
                    found.setdefault((point, effort), []).append(scores)
                    progress.update()
    print(f"{len(images)} images; PSNR in dB (gain), processor seconds to encode one\n")
    print("| rate @ SNR | " + " | ".join(f"effort {effort}" for effort in arguments.efforts) + " |")
    print("|---" * (len(arguments.efforts) + 1) + "|")
    for point in arguments.points:
        means = [torch.tensor(found[point, effort]).mean(0).tolist() for effort in arguments.efforts]
        cells = [f"{db:.2f} ({db - means[0][0]:+.2f}), {seconds:.2f} s" for db, seconds in means]
        print(f"| {point} dB | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
