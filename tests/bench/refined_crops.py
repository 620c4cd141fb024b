#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Crops of Kodak before and after refinement, at full size, side by side: docs/images/refined_crops.webp.

refined_crops.py kodak/ --out docs/images/refined_crops.webp
"""

import argparse
from pathlib import Path

import torch

from diffjscc.channel import transmit
from diffjscc.evaluate.contact_sheet import contact_sheet
from diffjscc.hub import load_codec, load_refiner
from diffjscc.images import find_images, read_image, to_pixels, to_tensor, write_image

#: Image, by its number, and the crop's left and top pixel.
CROPS = ((1, 60, 150), (5, 200, 60), (13, 200, 250), (15, 250, 60), (20, 330, 150), (24, 100, 200))
SIDE = 240


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kodak", help="folder of the 24 images")
    parser.add_argument("--refiner", default="mini", help="name or folder (default: %(default)s)")
    parser.add_argument("--rate", default="1/128", help="channel uses per pixel (default: %(default)s)")
    parser.add_argument("--snr", type=float, default=1.0, help="SNR, dB (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("refined_crops.webp"), help="image to write (default: %(default)s)")
    arguments = parser.parse_args()
    codec, refiner = load_codec(), load_refiner(arguments.refiner)
    images = find_images(arguments.kodak)
    cells = []
    for number, left, top in CROPS:
        image = to_tensor(read_image(images[number - 1]))
        symbols = codec.encode(image, arguments.snr, arguments.rate)
        initial = codec.decode(transmit(symbols, arguments.snr, seed=number - 1), symbols.header)
        generator = torch.Generator().manual_seed(number - 1)
        (refined,) = refiner(initial, arguments.snr, generator=generator, output_type="pt").images
        window = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
        captions = (f"kodim{number:02d}", "initial", "refined")
        cells.append([(to_pixels(p[window]), caption) for p, caption in zip((image, initial, refined), captions)])
    # Two crops a row.
    rows = [first + second for first, second in zip(cells[::2], cells[1::2])]
    write_image(arguments.out, contact_sheet(rows, width=SIDE))


if __name__ == "__main__":
    main()
