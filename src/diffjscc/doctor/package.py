# SPDX-License-Identifier: GPL-3.0-or-later
"""This package: the interpreter, models, and packages that only some features need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import time
from collections.abc import Iterator

from .. import __version__
from ..errors import one_line
from .finding import Finding, absent, good, wrong

#: What works only with further packages: the extra that installs them, and modules that tell whether they are there.
FEATURES = {
    "refining on this machine": ("refine", ("diffusers", "transformers", "accelerate", "yaml")),
    "the refinement service (diffjscc serve)": ("serve", ("prometheus_client",)),
    "the service over several machines": ("cluster", ("ray",)),
    "measuring (diffjscc evaluate)": ("evaluate", ("torchmetrics", "tqdm")),
    "training (diffjscc train)": ("train", ("tensorboard", "requests")),
    "training through Sionna's channels": ("channels", ("sionna",)),
}

#: Of the interpreter that runs this, whatever else is first in $PATH.
PIP = f"{sys.executable} -m pip"

#: How Sionna is installed where NumPy 1 must stay.
SIONNA = f"{PIP} install 'diffjscc[channels]' && {PIP} install --no-deps sionna-no-rt==2.2.0"

#: What is typed where the package itself, or torch, is broken.
REINSTALL = f"{PIP} install --force-reinstall diffjscc torch (a checkout: make clean, make setup)"


def check_python() -> Iterator[Finding]:
    yield good(f"diffjscc {__version__} under Python {platform.python_version()} ({sys.executable})")
    try:
        import numpy
        import torch
    except Exception as error:
        yield wrong(f"torch or NumPy cannot be imported: {one_line(error)}", f"{PIP} install --force-reinstall torch 'numpy<2'")
        return
    yield good(f"torch {torch.__version__}, NumPy {numpy.__version__}")


def check_models() -> Iterator[Finding]:
    from ..hub import DEFAULT_CODEC, DEFAULT_REFINER, survey_models

    entries, broken = survey_models()
    for entry in entries:
        parts = " and ".join(part for part, there in (("codec", entry.codec), ("refiner", entry.refiner)) if there)
        yield good(f"{entry.name}: {parts} in {entry.path}")
    for model in broken:
        yield wrong(f"{model.name}: broken ({model.reason})", f"repair or remove {model.path}")
    names = {entry.name for entry in entries}
    for name in (DEFAULT_CODEC, DEFAULT_REFINER):
        if name not in names:
            yield wrong(f"{name}, which comes with the package, is not there", REINSTALL)
    if DEFAULT_CODEC in names:
        yield _try_codec(DEFAULT_CODEC)


def _try_codec(name: str) -> Finding:
    """Sends a small image through the codec, as a check of weights and torch together."""
    try:
        import torch

        from ..channel import transmit
        from ..hub import load_codec
        from ..metrics import psnr

        ramp = torch.linspace(0, 1, 256)
        image = (ramp[:, None] * ramp).expand(3, -1, -1).contiguous()
        codec = load_codec(name)
        codec.encode(image, 10.0)
        begin = time.perf_counter()
        symbols = codec.encode(image, 10.0)
        received = codec.decode(transmit(symbols, 10.0), symbols.header)
        seconds = time.perf_counter() - begin
    except Exception as error:
        return wrong(f"{name} does not work: {one_line(error)}", REINSTALL)
    quality = psnr(received.cpu(), image)
    if not quality > 20:
        return wrong(f"{name} gives a wrong image ({quality:.1f} dB for a ramp)", REINSTALL)
    return good(f"{name} encodes and decodes 256×256 pixels in {1000 * seconds:.0f} ms")


def check_features() -> Iterator[Finding]:
    for feature, (extra, modules) in FEATURES.items():
        missing = [module for module in modules if not _installed(module)]
        if missing:
            remedy = SIONNA if extra == "channels" else f"{PIP} install 'diffjscc[{extra}]'"
            yield absent(f"{feature}: {', '.join(missing)} not installed", remedy)
        else:
            yield good(feature)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
