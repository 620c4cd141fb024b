# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a training computes: devices, processes, precision and trackers, through Accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ..errors import one_line
from ..hub import check_device
from .recipes import Recipe

#: What runtimes say where memory is exhausted, in errors that are not of a type of their own.
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "could not create a memory object")


def make_accelerator(recipe: Recipe, device: str, logs: Path, tracker: str) -> Accelerator:
    """An Accelerator for a training.

    device   "cpu", "cuda", or "" for Accelerate's choice
    logs     folder of the tracker
    tracker  "tensorboard", or another that Accelerate knows; "" for none

    Raises ValueError where the device is not there, the precision is not supported, or the tracker is not installed.
    """
    if device not in ("", "cpu", "cuda"):
        raise ValueError(f"device '{device}': must be cpu or cuda; CUDA_VISIBLE_DEVICES chooses a GPU, `accelerate launch` several")
    if device:
        check_device(device)
    # A process may train twice, with another precision: in a notebook, in a test.
    if "LOCAL_RANK" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with warnings.catch_warnings():
            # Of a tracker that is not installed it only warns.
            warnings.simplefilter("ignore")
            accelerator = Accelerator(
                mixed_precision=recipe.precision,
                cpu=device == "cpu",
                gradient_accumulation_steps=recipe.accumulate,
                log_with=tracker or None,
                project_dir=str(logs) if tracker else None,
            )
    except (ValueError, ImportError) as error:
        raise ValueError(f"precision = {recipe.precision}, tracker '{tracker}': {one_line(error)}") from None
    if tracker and not accelerator.log_with:
        raise ValueError(f"tracker '{tracker}' is not installed: pip install {tracker}")
    processes = accelerator.num_processes
    recipe.check(
        "batch", recipe.batch % (processes * recipe.accumulate) == 0, f"a multiple of {processes} processes × {recipe.accumulate}"
    )
    return accelerator


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Around what may ask for more memory than there is: then raises ValueError with ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in NO_MEMORY)
        if not known:
            raise
        raise ValueError(f"memory exhausted: {advice}") from None
