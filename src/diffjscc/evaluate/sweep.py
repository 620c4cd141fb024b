# SPDX-License-Identifier: GPL-3.0-or-later
"""A codec over a grid of rates and SNRs, on the ideal symbol channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..channel import draw_gain, transmit
from ..codec import Codec
from ..images import read_image, to_tensor
from ..metrics import ms_ssim, psnr


@dataclass(frozen=True)
class GridPoint:
    """Means over images and passes at one rate and SNR. snr_db and psnr_db in dB."""

    rate: Fraction
    snr_db: float
    psnr_db: float
    ms_ssim: float


def sweep(
    codec: Codec,
    paths: Sequence[Path],
    snrs_db: Sequence[float],
    rates: Sequence[Fraction] | None = None,
    channel: str = "awgn",
    passes: int = 1,
    seed: int = 0,
    erasures: float = 0.0,
    effort: int = 0,
) -> Iterator[GridPoint]:
    """Sends every image ``passes`` times at every rate (default: all that the codec has) and SNR.

    Each symbol is erased with probability ``erasures``; ``effort`` is the encoder's (see `Codec.encode`). Decoded images are
    scored as float, without rounding to 8 bits. The noise of an image and pass has the same seed at every point.
    """
    images = [to_tensor(read_image(path)) for path in paths]
    for rate in rates or codec.rates:
        for snr_db in snrs_db:
            scores = []
            for index, image in enumerate(images):
                for repeat in range(passes):
                    noise_seed = seed + index * passes + repeat
                    gain = draw_gain(channel, noise_seed)
                    symbols = codec.encode(image, snr_db, rate, fading=gain, effort=effort)
                    reception = transmit(symbols, snr_db, gain, noise_seed, erasures)
                    decoded = codec.decode(reception, symbols.header).cpu()
                    scores.append((psnr(decoded, image), ms_ssim(decoded, image)))
            yield GridPoint(rate, snr_db, *(sum(column) / len(scores) for column in zip(*scores)))


def markdown_table(points: Sequence[GridPoint]) -> str:
    """A Markdown table of PSNR in dB and MS-SSIM, one row per rate and one column per SNR."""
    snrs = sorted({p.snr_db for p in points})
    cells = {(p.rate, p.snr_db): f"{p.psnr_db:.2f} / {p.ms_ssim:.3f}" for p in points}
    lines = [
        "| rate | " + " | ".join(f"{snr:g} dB" for snr in snrs) + " |",
        "|---" * (len(snrs) + 1) + "|",
    ]
    for rate in sorted({p.rate for p in points}):
        lines.append(f"| {rate} | " + " | ".join(cells.get((rate, snr), "") for snr in snrs) + " |")
    return "\n".join(lines)
