# SPDX-License-Identifier: GPL-3.0-or-later
"""Loads a refiner from its folder and saves it there; every tensor is checked."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import one_line
from ..weights import check_finite, check_weights
from .control import ControlModule
from .pipeline import DiffJSCCPipeline
from .unet import SmoothUNet

NETWORKS = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny, ControlModule, SmoothUNet, UNet2DConditionModel)}


def load_pipeline(folder: Path, device: str | torch.device, dtype: torch.dtype) -> DiffJSCCPipeline:
    """The pipeline in a diffusers folder.

    Raises ValueError where a network's tensor is missing, left over, misshapen or not finite, or a file is damaged.
    """
    with _quiet():
        given = {name: _check_network(folder / name) for name in ("vae", "unet", "control")}
        text_encoder, given["text_encoder"] = _load_text_encoder(folder / "text_encoder", dtype)
        # Passed only where there is one: diffusers takes None for "leave out what model_index.json names".
        passed = {} if text_encoder is None else {"text_encoder": text_encoder}
        pipeline = DiffJSCCPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **passed)
    for name, files in given.items():
        network = getattr(pipeline, name)
        if network is not None:
            _check_values(network, files, folder / name)
            network.eval().requires_grad_(False)
    for network in (pipeline.vae, pipeline.unet, pipeline.control):
        network.to(memory_format=torch.channels_last)
    return pipeline.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no warnings: AutoencoderTiny warns of an entry that it writes into its own configuration."""
    libraries = (logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, progress) in zip(libraries, before):
            library.set_verbosity(verbosity)
            if progress:
                library.enable_progress_bar()


def save_pipeline(pipeline: DiffJSCCPipeline, folder: Path) -> None:
    """Writes a diffusers folder with all networks in float16; the pipeline stays as it is."""
    parts: dict[str, Any] = {
        name: to_half(copy.deepcopy(part)) if isinstance(part, nn.Module) else part for name, part in pipeline.components.items()
    }
    DiffJSCCPipeline(**parts, **pipeline.parameters).save_pretrained(folder)


def to_half(network: nn.Module) -> nn.Module:
    """The network itself, its weights now float16."""
    # diffusers' own `to` warns of modules to be kept in float32, though there are none.
    return nn.Module.to(network, torch.float16)


#: The file that each tensor is in.
Files = dict[str, Path]


def _check_network(folder: Path) -> Files:
    """The files of a network's tensors. Raises ValueError unless they are exactly those that its configuration asks for.

    diffusers fills what a file lacks with random numbers, and a radio link must not.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {one_line(error)}") from None
    cls = NETWORKS.get(config.get("_class_name"))
    if cls is None:
        raise ValueError(f"{folder}: network {config.get('_class_name')!r} is not one of {', '.join(NETWORKS)}")
    with init_empty_weights():
        expected = cls.from_config(config).state_dict()
    given: dict[str, list[int]] = {}
    files: Files = {}
    for file in _tensor_files(folder):
        with _open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118, not a mapping
                given[name], files[name] = tensors.get_slice(name).get_shape(), file
    check_weights(expected, given, folder)
    return files


def _load_text_encoder(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel | None, Files]:
    """The text encoder and the files of its tensors; (None, {}) where the refiner has none.

    Its names are transformers' own affair, which renames some while loading. So transformers' report is checked: it, too,
    fills what is missing with random numbers.
    """
    if not folder.is_dir():
        return None, {}
    # Importing it takes a while, and the bundled refiner has none.
    from transformers import CLIPTextModel

    files: Files = {}
    for file in _tensor_files(folder):
        with _open(file) as tensors:
            files |= dict.fromkeys(tensors.keys(), file)
    try:
        loaded: Any = CLIPTextModel.from_pretrained(folder, dtype=dtype, output_loading_info=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder}: no CLIP text encoder there ({one_line(error)})") from None
    network, report = loaded
    for kind, names in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if names:
            raise ValueError(f"{folder} {kind} {len(names)} tensors, such as {min(names)}: it is not of this configuration")
    return network, files


def _check_values(network: nn.Module, files: Files, folder: Path) -> None:
    """Raises ValueError where a tensor is not finite, naming its file."""
    for name, value in network.state_dict().items():
        # A sum that is finite has finite terms, and it is several times faster than looking at each.
        if value.is_floating_point() and not math.isfinite(value.sum(dtype=torch.float32).item()):
            # transformers renames some tensors while loading; those are said to be in the folder.
            check_finite({name: value}, files.get(name, folder))


def _tensor_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no safetensors file")
    return files


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or cut short ({one_line(error)})") from None
