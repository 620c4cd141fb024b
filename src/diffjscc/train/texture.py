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

#: Places of a batch whose patches are compared as one set.
POOLED_PLACES = 16384

#: Local deviation of detail below which a place counts as flat rather than as texture, of 1.
FLAT_DEVIATION = 4 / 255

#: Side of the window that the local deviation is taken in, and of those that `quiet_loss` compares, pixels.
LOCAL_WINDOW, QUIET_WINDOW = 17, 16

#: Features of the two layers of the random network.
FEATURES = (24, 32)

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
        directions = _directions(DIRECTIONS, PATCH, random).to(refined)
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


def pooled_texture_loss(refined: Tensor, original: Tensor, random: torch.Generator) -> Tensor:
    """Sliced Wasserstein distance between the 7×7 patches of the whole batch, taken as one set; both (N, 3, H, W) in [0, 1].

    Where the received image does not tell how much texture a window had, the distance to each window's own is least for too
    little in all of them. As a set, they must have the photographs' distribution: some quiet, some busy.
    """
    total = refined.new_zeros(())
    for _ in range(OCTAVES):
        directions = _directions(DIRECTIONS, PATCH, random).to(refined)
        (refined, given), (original, wanted) = (_halve(image) for image in (refined, original))
        given, wanted = (F.conv2d(detail, directions).transpose(0, 1).flatten(1) for detail in (given, wanted))
        places = torch.randint(given.shape[1], (min(POOLED_PLACES, given.shape[1]),), generator=random).to(given.device)
        given, wanted = (values[:, places].sort(dim=1).values for values in (given, wanted))
        total = total + (given - wanted).abs().mean()
    return total / OCTAVES


def feature_loss(refined: Tensor, original: Tensor, random: torch.Generator) -> Tensor:
    """Difference of the local mean and deviation of a random network's features; both (N, 3, H, W) in [0, 1].

    Two layers of random convolutions, drawn anew each time, at two scales: their statistics tell textures apart nearly as well
    as a trained network's (Ustyuzhaninov et al., ICLR 2017), and see how lines join, which projections of patches do not.
    """
    first = _directions(FEATURES[0], 5, random)
    # No mean: brightness is for the other losses.
    first = (first - first.mean((2, 3), keepdim=True)).to(refined)
    second = torch.randn(FEATURES[1], FEATURES[0], 3, 3, generator=random).to(refined)
    second = second / second.flatten(1).norm(dim=1)[:, None, None, None]
    total = refined.new_zeros(())
    for scale in range(OCTAVES):
        if scale:
            refined, original = F.avg_pool2d(refined, 2), F.avg_pool2d(original, 2)
        given, wanted = (F.relu(F.conv2d(F.avg_pool2d(F.relu(F.conv2d(image, first)), 2), second)) for image in (refined, original))
        for one, other in zip(_local_statistics(given), _local_statistics(wanted)):
            total = total + (one - other).abs().mean()
    return total / OCTAVES


def flatness(original: Tensor) -> Tensor:
    """How flat photographs are from place to place: 1 for a clear sky, 0 for foliage; (N, 3, H, W) → (N, 1, H, W)."""
    coarse = F.interpolate(F.avg_pool2d(original, 4), original.shape[-2:], mode="bilinear", align_corners=False)
    detail = (original - coarse).square().mean(1, keepdim=True)
    variance = F.avg_pool2d(detail, LOCAL_WINDOW, stride=1, padding=LOCAL_WINDOW // 2, count_include_pad=False)
    return 1 / (1 + variance / FLAT_DEVIATION**2)


def quiet_loss(refined: Tensor, original: Tensor, flat: Tensor) -> Tensor:
    """How much the deviation of flat places differs from the photograph's, relative to it; (N, 3, H, W), flat (N, 1, H, W).

    In windows of 16×16 pixels. Faint grain adds next to nothing to the other losses, and a sky shows it.
    """
    given, wanted = (_local_statistics(image, QUIET_WINDOW)[1] for image in (refined, original))
    flat = F.avg_pool2d(flat, QUIET_WINDOW, stride=QUIET_WINDOW // 2)
    return (flat * (given - wanted).abs() / (wanted + FLAT_DEVIATION / 2)).mean()


def _directions(count: int, side: int, random: torch.Generator) -> Tensor:
    """Random unit vectors as convolution kernels, (count, 3, side, side)."""
    directions = torch.randn(count, 3, side, side, generator=random)
    return directions / directions.flatten(1).norm(dim=1)[:, None, None, None]


def _local_statistics(features: Tensor, side: int = 8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of features in overlapping windows."""
    mean, square = (F.avg_pool2d(values, side, stride=side // 2) for values in (features, features.square()))
    return mean, (square - mean.square()).clamp(min=0).add(1e-8).sqrt()


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
