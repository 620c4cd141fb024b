# SPDX-License-Identifier: GPL-3.0-or-later
"""BPG, the paper's image codec, by its own tools where they are on the PATH."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ....errors import one_line
from ....images import read_image, write_image
from .base import ImageCodec

#: Seconds for one call of a tool.
DEADLINE = 120


class Bpg(ImageCodec):
    """bpgenc and bpgdec (Bellard); the whole file counts. The setting is the QP."""

    name = "bpg"
    coarsest, finest = 51, 0

    def __init__(self) -> None:
        for tool in ("bpgenc", "bpgdec"):
            if shutil.which(tool) is None:
                raise ValueError(
                    f"image codec 'bpg' needs {tool}, which is not on the PATH: install libbpg's tools, or choose hevc, "
                    "which uses the same coding tools"
                )

    def encode(self, pixels: np.ndarray, setting: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.png"), Path(folder, "out.bpg")
            write_image(source, pixels)
            done = _run("bpgenc", "-q", str(setting), "-o", str(target), str(source))
            if done.returncode or not target.is_file():
                raise ValueError(f"bpgenc -q {setting}: {one_line(done.stderr or 'it wrote no file')}")
            return target.read_bytes()

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.bpg"), Path(folder, "out.png")
            source.write_bytes(data)
            done = _run("bpgdec", "-o", str(target), str(source))
            if done.returncode or not target.is_file():
                raise ValueError(f"bpgdec: {one_line(done.stderr or 'it wrote no file')}")
            return read_image(target)


def _run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
