# SPDX-License-Identifier: GPL-3.0-or-later
"""A contact sheet: rows of images with captions under them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 16
CAPTION_SIZE = 15
CAPTION_LINES = 2
INK, PAPER = (32, 32, 32), (250, 250, 248)


def contact_sheet(rows: Sequence[Sequence[tuple[np.ndarray, str]]], width: int = 420) -> np.ndarray:
    """Rows of (image uint8 (H, W, 3), caption) → one image, uint8.

    Every image is scaled to ``width`` pixels. Captions have at most two lines, separated by a newline, of Latin-1 characters
    except ×.
    """
    font = ImageFont.load_default(CAPTION_SIZE)
    caption_height = CAPTION_LINES * (CAPTION_SIZE + 5) + MARGIN
    heights = [max(round(width * p.shape[0] / p.shape[1]) for p, _ in row) for row in rows]
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "RGB",
        (MARGIN + columns * (width + MARGIN), MARGIN + sum(heights) + len(rows) * caption_height),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, height in zip(rows, heights):
        for column, (pixels, caption) in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            scaled = Image.fromarray(pixels).resize(
                (width, round(width * pixels.shape[0] / pixels.shape[1])), Image.Resampling.LANCZOS
            )
            sheet.paste(scaled, (left, top))
            pen.multiline_text((left, top + height + 5), caption, INK, font, spacing=5)
        top += height + caption_height
    return np.asarray(sheet)


def error_image(received: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The difference of two uint8 images around mid grey: 128 + received − original, clipped, uint8."""
    return (128 + received.astype(np.int16) - original).clip(0, 255).astype(np.uint8)
