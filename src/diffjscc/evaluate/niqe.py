# SPDX-License-Identifier: GPL-3.0-or-later
"""NIQE: the distance of an image's statistics from those of undistorted photographs, without knowledge of the original.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal Processing Letters, 2013.

    luminance ─► (I − µ)/(σ + 1) ─► 96×96 patches ─► 18 features each ─┬─► Gaussian of the image ─► distance
        └─► ÷2 ─► the same ──────────── 48×48 ─► 18 features ──────────┘    to the pristine Gaussian

The features are the parameters of generalised Gaussians fitted to the normalised luminance and to the products of
neighbours in four directions. The pristine Gaussian in this package was fitted to photographs with `fit`; see
docs/results.md. The values depend on it, so that they cannot be compared with those of other implementations.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

PRISTINE = Path(__file__).with_name("niqe_pristine.safetensors")

#: Side of a patch, pixels.
PATCH = 96

#: A patch of a pristine photograph is used if it is at least this sharp, relative to the sharpest patch of the photograph.
SHARPNESS = 0.75


def niqe(pixels: np.ndarray) -> float:
    """NIQE of uint8 RGB (H, W, 3), lower is better; NaN for an image with fewer than four 96×96 patches."""
    if min(pixels.shape[:2]) < PATCH:
        return float("nan")
    features, _ = _features(pixels)
    features = features[np.isfinite(features).all(1)]
    if len(features) < 4:
        return float("nan")
    pristine = _pristine()
    difference = pristine["mean"] - features.mean(0)
    covariance = (pristine["covariance"] + np.cov(features, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def fit(photographs: Iterable[np.ndarray], path: Path = PRISTINE) -> None:
    """Fits the pristine Gaussian to the sharp patches of photographs, uint8 RGB, and writes it."""
    sharp = []
    for pixels in photographs:
        if min(pixels.shape[:2]) < PATCH:
            continue
        features, sharpness = _features(pixels)
        sharp.append(features[sharpness >= SHARPNESS * sharpness.max()])
    features = np.concatenate(sharp)
    features = features[np.isfinite(features).all(1)]
    save_file({"mean": features.mean(0), "covariance": np.cov(features, rowvar=False)}, path)


@cache
def _pristine() -> dict[str, np.ndarray]:
    return load_file(PRISTINE)


def _features(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(patches, 36) features, and the sharpness of each patch, (patches,)."""
    luminance = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    rows, columns = (side // PATCH for side in luminance.shape)
    luminance = luminance[: rows * PATCH, : columns * PATCH]
    scales = []
    for size in (PATCH, PATCH // 2):
        normalised, deviation = _normalise(luminance)
        patches = _blocks(normalised, size)
        if size == PATCH:
            sharpness = _blocks(deviation, size).mean((1, 2))
        scales.append(_patch_features(patches))
        luminance = luminance.reshape(luminance.shape[0] // 2, 2, luminance.shape[1] // 2, 2).mean((1, 3))
    return np.concatenate(scales, axis=1), sharpness


def _normalise(luminance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean-subtracted, contrast-normalised luminance, and the local deviation."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    taps /= taps.sum()

    def blur(plane: np.ndarray) -> np.ndarray:
        plane = np.pad(plane, 3, mode="edge")
        plane = sum(tap * plane[i : i + plane.shape[0] - 6] for i, tap in enumerate(taps))
        return sum(tap * plane[:, i : i + plane.shape[1] - 6] for i, tap in enumerate(taps))

    mean = blur(luminance)
    deviation = np.sqrt(np.maximum(blur(luminance**2) - mean**2, 0))
    return (luminance - mean) / (deviation + 1), deviation


def _blocks(plane: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (side // size for side in plane.shape)
    return plane.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)


def _patch_features(patches: np.ndarray) -> np.ndarray:
    """(P, size, size) → (P, 18): shape and variance of the values, then of the products with four neighbours."""
    shape, left, right = _fit_asymmetric(patches)
    columns = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit_asymmetric(patches * np.roll(patches, (down, across), axis=(1, 2)))
        centre = (right - left) * _gamma_ratio(2 / shape, 1 / shape)
        columns += [shape, centre, left, right]
    return np.stack(columns, axis=1)


_SHAPES = np.arange(0.2, 10.0, 0.001)


def _fit_asymmetric(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moment fit of an asymmetric generalised Gaussian (Lasmar et al., 2009): shape, left and right scale, each (P,)."""
    values = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt((values**2 * (values < 0)).sum(1) / (values < 0).sum(1))
        right = np.sqrt((values**2 * (values > 0)).sum(1) / (values > 0).sum(1))
        skew = left / right
        ratio = np.abs(values).mean(1) ** 2 / (values**2).mean(1)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    # The ratio Γ(2/a)²/(Γ(1/a)Γ(3/a)) rises with the shape a.
    table = _gamma_ratio(2 / _SHAPES, 1 / _SHAPES) / _gamma_ratio(3 / _SHAPES, 2 / _SHAPES)
    shape = _SHAPES[np.searchsorted(table, np.nan_to_num(ratio)).clip(0, len(_SHAPES) - 1)]
    scale = np.sqrt(_gamma_ratio(1 / shape, 3 / shape))
    return shape, left * scale, right * scale


def _gamma_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Γ(a)/Γ(b)."""
    return torch.exp(torch.lgamma(torch.from_numpy(a)) - torch.lgamma(torch.from_numpy(b))).numpy()
