# SPDX-License-Identifier: GPL-3.0-or-later
"""The tensors in a checkpoint's file, PyTorch's or safetensors', read so that a file can neither run code nor fill the memory."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import one_line

#: How files begin that are no checkpoints, and what they are.
NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: fetch it with git lfs pull",
    b"<": "a web page, probably an error's, not a checkpoint: download the file again",
    b"{": "text, not a checkpoint: download the file again",
}

#: No tensor of any network has a longer name.
MAX_NAME = 300

#: What PyTorch calls the class that a file would have to be trusted with.
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name, mapped from the file where its format allows.

    Formats: safetensors, and what torch.save writes: the tensors by name, or a training's state with them as "state_dict".
    Raises ValueError, in one line with the file's name, for anything else.
    """
    try:
        with open(file, "rb") as opened:
            first = opened.read(64)
        if not first.strip():
            raise ValueError("an empty file: download it again")
        for beginning, what in NOT_CHECKPOINTS.items():
            if first.lstrip().startswith(beginning):
                raise ValueError(what)
        # A safetensors file is the length of its header, 8 bytes, and then the header as JSON.
        state = _read_safetensors(file) if first[8:9] == b"{" else _read_torch(file)
        return _named_tensors(state, os.path.getsize(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {one_line(error)}") from None


def _read_safetensors(file: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:
        raise ValueError(f"damaged or cut short ({one_line(error)})") from None


def _read_torch(file: Path) -> object:
    # Until version 1.6 PyTorch wrote another format, which cannot be mapped.
    mapped = zipfile.is_zipfile(file)
    if mapped:
        _check_archive(file)
    try:
        return torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:
        if refused := _GLOBAL.search(str(error)):
            what = f"holds {refused[1]} besides tensors, which could run code"
            raise ValueError(f"{what}: refused; its author can save the tensors alone, as safetensors") from None
        # PyTorch's own words here advise to trust the file.
        reason = "" if "weights_only" in str(error) else f" ({one_line(error)})"
        raise ValueError(f"damaged, cut short or not a checkpoint of plain tensors{reason}") from None


def _check_archive(file: Path) -> None:
    """A few kilobytes of a compressed archive can become any number of gigabytes; torch.save does not compress."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged or cut short ({one_line(error)})") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a compressed archive: not one that torch.save wrote")


def _named_tensors(state: object, size: int) -> dict[str, Tensor]:
    """The tensors of what a file of ``size`` bytes holds. Raises ValueError where there are none, or one is not plain numbers."""
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, not tensors by name")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("holds no tensors")
    for name, value in tensors.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
            raise ValueError(f"holds a tensor whose name is {repr(name)[:80]}, not a line of text")
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_nested or value.is_meta:
            raise ValueError(f"tensor {name} is not one of plain numbers, but sparse, quantised or complex")
    # A tensor of any size can be a view of one number. The authors' condition encoder may share the VAE's memory.
    if sum(value.numel() * value.itemsize for value in tensors.values()) > 2 * size:
        raise ValueError(f"its tensors are views that repeat the {size / 1e6:.1f} MB of the file: save copies of them")
    return tensors
