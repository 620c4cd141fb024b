# SPDX-License-Identifier: GPL-3.0-or-later
"""Images larger than memory: a network runs on overlapping tiles, and its outputs are blended where they overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor

#: Share of a tile that the next one covers too.
OVERLAP = Fraction(1, 4)

_hook = threading.local()


@contextmanager
def between_tiles(call: Callable[[], object]) -> Iterator[None]:
    """Within the block, in this thread, ``call`` is called before each tile. An error that it raises ends the computation."""
    before = getattr(_hook, "call", None)
    _hook.call = call
    try:
        yield
    finally:
        _hook.call = before


def in_tiles(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tile: int | None, scale: Fraction = Fraction(1)
) -> Tensor:
    """``function`` of (N, …, h, w) tensors of one height and width, computed tile by tile.

    tile   side of a tile, a multiple of what ``function`` needs; none: all at once
    scale  size of the output relative to the inputs, such as 1/8 for an encoder; tile·scale/4 must be whole
    """
    height, width = inputs[0].shape[-2:]
    if tile is None or (height <= tile and width <= tile):
        return function(*inputs)
    # Made with the first tile, which knows the size and device of the output.
    total = weights = torch.empty(0)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            if (call := getattr(_hook, "call", None)) is not None:
                call()
            part = function(*(x[..., top : top + tile, left : left + tile] for x in inputs))
            if not total.numel():
                total = part.new_zeros(*part.shape[:-2], int(height * scale), int(width * scale), dtype=torch.float32)
                weights = total.new_zeros(total.shape[-2:])
            fade = torch.outer(*(_fade(side, int(tile * scale * OVERLAP)).to(total) for side in part.shape[-2:]))
            rows = slice(int(top * scale), int(top * scale) + part.shape[-2])
            columns = slice(int(left * scale), int(left * scale) + part.shape[-1])
            total[..., rows, columns] += part * fade
            weights[rows, columns] += fade
    return (total / weights).to(part.dtype)


def _starts(side: int, tile: int) -> list[int]:
    """Where tiles begin: every ¾ of a tile; the last one ends with the image."""
    if side <= tile:
        return [0]
    stride = int(tile * (1 - OVERLAP))
    return [*range(0, side - tile, stride), side - tile]


def _fade(side: int, overlap: int) -> Tensor:
    """Weights along a tile: rising over ``overlap`` values, flat, falling; never zero."""
    ramp = torch.arange(1, side + 1).clamp(max=overlap + 1)
    return torch.minimum(ramp, ramp.flip(0)).float()
