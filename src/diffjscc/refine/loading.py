# SPDX-License-Identifier: GPL-3.0-or-later
"""A refiner from its folder and to it, with every tensor accounted for."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from torch import nn

from ..weights import check_weights
from .control import ControlModule
from .pipeline import DiffJSCCPipeline
from .unet import SmoothUNet

NETWORKS = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny, ControlModule, SmoothUNet, UNet2DConditionModel)}


def load_pipeline(folder: Path, device: str | torch.device, dtype: torch.dtype) -> DiffJSCCPipeline:
    """The pipeline in a diffusers folder.

    Raises ValueError where a network's tensor is missing, left over or misshapen, or a file is damaged.
    """
    with _quiet():
        for name in ("vae", "unet", "control"):
            _check_network(folder / name)
        pipeline = DiffJSCCPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    for network in (pipeline.vae, pipeline.unet, pipeline.control):
        network.eval().requires_grad_(False)
        network.to(memory_format=torch.channels_last)
    return pipeline.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no warnings that AutoencoderTiny does not know what it wrote itself."""
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()


def save_pipeline(pipeline: DiffJSCCPipeline, folder: Path) -> None:
    """Writes a diffusers folder with all networks in float16; the pipeline stays as it is."""
    networks = {
        name: to_half(copy.deepcopy(part)) if isinstance(part, nn.Module) else part for name, part in pipeline.components.items()
    }
    DiffJSCCPipeline(**networks, defaults=pipeline.config.defaults).save_pretrained(folder)


def to_half(network: nn.Module) -> nn.Module:
    """The network itself, its weights now float16."""
    # diffusers' own `to` warns of modules to be kept in float32, though there are none.
    return nn.Module.to(network, torch.float16)


def _check_network(folder: Path) -> None:
    """diffusers fills what a file lacks with random numbers; a radio link must not."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    cls = NETWORKS.get(config.get("_class_name"))
    if cls is None:
        raise ValueError(f"{folder}: network {config.get('_class_name')!r} is not one of {', '.join(NETWORKS)}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no safetensors file")
    with init_empty_weights():
        expected = cls.from_config(config).state_dict()
    given: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                given |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118, not a mapping
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged or cut short ({error})") from None
    check_weights(expected, given, folder)
