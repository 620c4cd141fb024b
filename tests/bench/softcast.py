#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""SoftCast (Jakubczak and Katabi, 2011), the classic analog image code, on the same ideal symbol channel as `lite`.

python tests/bench/softcast.py kodak/
"""

import argparse

from tqdm import tqdm

from diffjscc.evaluate.plan import channel_uses
from diffjscc.evaluate.systems import build_system
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr

POINTS = (("1/128", 1.0), ("1/32", 1.0), ("1/16", 1.0), ("1/16", 13.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--chunks", type=int, default=32, help="chunks on a side of each plane (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="transmissions of each image (default: %(default)s)")
    arguments = parser.parse_args()
    system = build_system({"system": "softcast", "chunks": arguments.chunks})
    images = [to_tensor(read_image(path)) for path in find_images(arguments.images)]
    print("| rate, SNR | PSNR |\n|---|---|")
    for rate, snr_db in tqdm(POINTS, unit="point"):
        values = []
        for number, image in enumerate(images):
            budget = channel_uses(rate, *image.shape[-2:])
            for repeat in range(arguments.repeats):
                sent = system.send(image, budget, snr_db, "awgn", number * arguments.repeats + repeat)
                values.append(psnr(sent.image, image))
        print(f"| {rate}, {snr_db:g} dB | {sum(values) / len(values):.2f} dB |")


if __name__ == "__main__":
    main()
