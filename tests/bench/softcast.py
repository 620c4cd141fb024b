#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""SoftCast (Jakubczak and Katabi, 2011), the classic analog image code, on the same ideal symbol channel as `lite`.

    python tests/bench/softcast.py kodak/

A whole-frame DCT of Y, Cb and Cr is cut into chunks; the strongest are sent, scaled by λ^(−1/4) of their variance λ, and
estimated at the receiver by linear least squares. Which chunks, their variances and means cost nothing here: the side
information is free, which flatters SoftCast.
"""

import argparse

import numpy as np
from scipy.fft import dctn, idctn
from tqdm import tqdm

from diffjscc.images import find_images, read_image
from diffjscc.symbols import parse_rate

POINTS = (("1/128", 1.0), ("1/32", 1.0), ("1/16", 1.0), ("1/16", 13.0))

#: BT.601 luma and colour differences, scaled to be orthonormal enough that error in them is error in RGB.
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def softcast(image, rate, snr_db, chunks, random):
    """image float (H, W, 3) in [0, 1] → received, likewise. ``chunks`` chunks on a side of each plane."""
    height, width, _ = image.shape
    planes = dctn((image - 0.5) @ TO_YCC.T, axes=(0, 1), norm="ortho")
    grid = planes.reshape(chunks, height // chunks, chunks, width // chunks, 3).transpose(0, 2, 4, 1, 3)
    values = grid.reshape(chunks * chunks * 3, -1)
    # A complex symbol carries two coefficients.
    kept = int(2 * rate * height * width) // values.shape[1]
    mean = values.mean(axis=1, keepdims=True)
    variance = values.var(axis=1)
    strongest = np.argsort(variance)[::-1][:kept]
    scale = variance[strongest] ** -0.25
    scale *= np.sqrt(0.5 / np.mean(scale**2 * variance[strongest]))
    sigma2 = 10 ** (-snr_db / 10) / 2
    sent = (values[strongest] - mean[strongest]) * scale[:, None]
    received = sent + random.normal(scale=np.sqrt(sigma2), size=sent.shape)
    power = scale**2 * variance[strongest]
    estimate = np.broadcast_to(mean, values.shape).copy()
    estimate[strongest] += received * (power / (power + sigma2) / scale)[:, None]
    shape = chunks, chunks, 3, height // chunks, width // chunks
    planes = estimate.reshape(shape).transpose(0, 3, 1, 4, 2).reshape(height, width, 3)
    return (idctn(planes, axes=(0, 1), norm="ortho") @ np.linalg.inv(TO_YCC).T + 0.5).clip(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder of images whose sides are multiples of the chunks")
    parser.add_argument("--chunks", type=int, default=32, help="chunks on a side of each plane (default: %(default)s)")
    arguments = parser.parse_args()
    originals = [read_image(path) / 255 for path in find_images(arguments.images)]
    print("| rate, SNR | PSNR |\n|---|---|")
    for rate, snr_db in tqdm(POINTS, unit="point"):
        random = np.random.default_rng(0)
        received = (softcast(image, parse_rate(rate), snr_db, arguments.chunks, random) for image in originals)
        psnr = [-10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(received, originals)]
        print(f"| {rate}, {snr_db:g} dB | {np.mean(psnr):.2f} dB |")


if __name__ == "__main__":
    main()
