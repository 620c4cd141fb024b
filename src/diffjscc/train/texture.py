# SPDX-License-Identifier: GPL-3.0-or-later
"""What detail should look like, wherever exactly it sits: losses on local statistics of an image's finest octaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Octaves of spatial frequency that are compared, from the finest.
OCTAVES = 2

#: Side of the patches, pixels of their octave.
PATCH = 7

#: Random directions that patches are projected on, drawn anew each time.
DIRECTIONS = 16

#: Side of the windows whose patches are compared with each other, pixels of their octave.
WINDOW = 24

#: Side of the windows whose spectra are compared, and their stride, pixels of their octave.
SPECTRUM_WINDOW, SPECTRUM_STRIDE = 16, 8

#: Period of the lattices that a generator may leave, pixels: networks that halve three times.
LATTICE = 8


def texture_loss(refined: Tensor, original: Tensor, random: torch.Generator) -> Tensor:
    """Sliced Wasserstein distance between the 7×7 patches of corresponding windows; both (N, 3, H, W) in [0, 1].

    Patches of each octave are projected on random directions; in every window of 24×24 places, the projections of one
    image are sorted and compared with the other's (Elnekave and Weiss, "GPDM", CVPR 2022, compare whole images so).
    Blur costs, and so does grain on a clear sky, a lattice, or detail spread evenly where the photograph has edges; where
    in its window an edge or a blade of grass stands costs nothing, and is left to the other losses.
    """
    total = refined.new_zeros(())
    for _ in range(OCTAVES):
        directions = torch.randn(DIRECTIONS, 3, PATCH, PATCH, generator=random).to(refined)
        directions = directions / directions.flatten(1).norm(dim=1)[:, None, None, None]
        (refined, given), (original, wanted) = (_halve(image) for image in (refined, original))
        given, wanted = (_sorted_windows(F.conv2d(detail, directions)) for detail in (given, wanted))
        total = total + (given - wanted).abs().mean()
    return total / OCTAVES


def spectrum_loss(refined: Tensor, original: Tensor) -> Tensor:
    """Mean difference of local amplitude spectra; both (N, 3, H, W) in [0, 1].

    Amplitudes of 16×16 Hann windows, averaged over neighbouring windows. Random projections of patches hardly notice fine
    lines of one period and direction; in a spectrum they stand alone.
    """
    total = refined.new_zeros(())
    for _ in range(OCTAVES):
        (refined, given), (original, wanted) = (_halve(image) for image in (refined, original))
        total = total + (_amplitudes(given) - _amplitudes(wanted)).abs().mean()
    return total / OCTAVES


def lattice_loss(refined: Tensor) -> Tensor:
    """How much detail, and its strength, depend on the place in an 8×8 lattice, on average over (N, 3, H, W).

    Photographs know no lattice; networks that work at a fraction of the resolution leave theirs wherever detail is asked
    for, and it is too faint in any one window for `texture_loss`.
    """
    rows, columns = (side // LATTICE for side in refined.shape[-2:])
    _, detail = _halve(refined[..., : rows * LATTICE, : columns * LATTICE])
    total = refined.new_zeros(())
    for strength in (detail, detail.abs()):
        cells = strength.reshape(-1, 3, rows, LATTICE, columns, LATTICE).mean((0, 2, 4))
        total = total + (cells - cells.mean((1, 2), keepdim=True)).abs().mean()
    return total


def _halve(image: Tensor) -> tuple[Tensor, Tensor]:
    """The image at half its size, and what that lost."""
    coarse = F.avg_pool2d(image, 2)
    return coarse, image - F.interpolate(coarse, image.shape[-2:], mode="bilinear", align_corners=False)


def _amplitudes(detail: Tensor) -> Tensor:
    """(N, 3, H, W) → (N·3, frequencies, h, w): local amplitude spectra, unitary."""
    windows = detail.unfold(2, SPECTRUM_WINDOW, SPECTRUM_STRIDE).unfold(3, SPECTRUM_WINDOW, SPECTRUM_STRIDE)
    hann = torch.hann_window(SPECTRUM_WINDOW, device=detail.device)
    spectra = torch.fft.rfft2(windows * torch.outer(hann, hann), norm="ortho").abs()
    return F.avg_pool2d(spectra.flatten(0, 1).flatten(-2).permute(0, 3, 1, 2), 3, stride=2)


def _sorted_windows(responses: Tensor) -> Tensor:
    """(N, D, H, W) → (N, D, H/24, W/24, 576): each window's values in order; what does not fill a window is left out."""
    rows, columns = (side // WINDOW for side in responses.shape[-2:])
    windows = responses[..., : rows * WINDOW, : columns * WINDOW]
    windows = windows.reshape(*responses.shape[:2], rows, WINDOW, columns, WINDOW).transpose(-3, -2)
    return windows.flatten(-2).sort(dim=-1).values
