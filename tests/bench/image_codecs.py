#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes and quality of the image codecs of separate coding, and what fits at the channel's capacity.

python tests/bench/image_codecs.py kodak/
"""

import argparse
from statistics import fmean

import torch
from tqdm import tqdm

from diffjscc.evaluate.plan import channel_uses
from diffjscc.evaluate.systems import build_system
from diffjscc.evaluate.systems.image_codecs import find_image_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr

#: Settings at which HEVC is compared with other measurements.
QPS = (51, 43)

RATES, SNRS_DB = ("1/128", "1/64", "1/32", "1/16"), (1.0, 13.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--codec", default="hevc", help="hevc, av1, jpeg2000 or bpg (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photographs = [read_image(path) for path in find_images(arguments.images)]
    if arguments.codec in ("hevc", "bpg"):
        print("| QP | bytes | PSNR |\n|---|---|---|")
        for qp in QPS:
            print("| {} | {:.0f} | {:.2f} dB |".format(qp, *at_setting(find_image_codec(arguments.codec), photographs, qp)))
        print()
    system = build_system({"system": "capacity", "image_codec": arguments.codec})
    values = {(rate, snr_db): [] for rate in RATES for snr_db in SNRS_DB}
    # Image by image, because encoded images are kept for a while.
    for pixels in tqdm(photographs, unit="image"):
        image = to_tensor(pixels)
        for rate, snr_db in values:
            sent = system.send(image, channel_uses(rate, *pixels.shape[:2]), snr_db, "awgn", 0)
            values[rate, snr_db].append(None if sent.image is None else psnr(sent.image, image))
    print("| rate, SNR | images that fit | their mean PSNR |\n|---|---|---|")
    for (rate, snr_db), row in values.items():
        fit = [value for value in row if value is not None]
        print(f"| {rate}, {snr_db:g} dB | {len(fit)} of {len(row)} | {f'{fmean(fit):.2f} dB' if fit else '–'} |")


def at_setting(codec, photographs, setting):
    """Mean bytes and mean PSNR."""
    encoded = [codec.encode(pixels, setting) for pixels in photographs]
    decoded = [codec.decode(data, *pixels.shape[:2]) for data, pixels in zip(encoded, photographs)]
    return fmean(map(len, encoded)), fmean(psnr(to_tensor(a), to_tensor(b)) for a, b in zip(decoded, photographs))


if __name__ == "__main__":
    main()
