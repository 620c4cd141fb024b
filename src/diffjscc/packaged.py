# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML files that come with the package, by name, and a person's own, by path: recipes and sweeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from .errors import one_line
from .fields import nearest


def packaged_folder(plural: str) -> Path:
    """Where the files of a kind ("recipes", "sweeps") that come with the package are."""
    package = Path(__file__).parent
    # A wheel carries them inside the package; a checkout has them beside src/.
    inside = package / plural
    return inside if inside.is_dir() else package.parents[1] / plural


def packaged_names(plural: str) -> list[str]:
    """Names of the files of a kind that come with the package."""
    return sorted(path.stem for path in packaged_folder(plural).glob("*.yaml"))


def read_yaml(source: str | os.PathLike, kind: str, example: str) -> tuple[Path, dict[str, Any]]:
    """The path and the values of a file, or of the packaged one of that name.

    kind     what the file is, in the singular: "recipe", "sweep"
    example  a line of such a file, for the message where there are no keys

    Raises ValueError for a file or name that does not exist (and tells the nearest name), and for what is no such file.
    """
    path = Path(source)
    if not os.path.isfile(path):
        path = packaged_folder(f"{kind}s") / f"{source}.yaml"
    if not os.path.isfile(path):
        names = packaged_names(f"{kind}s")
        raise ValueError(f"{kind} '{source}' is no file, and no name{nearest(str(source), names)}; names are {', '.join(names)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: no YAML file ({one_line(' '.join(str(error).split()), 150)})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, such as `{example}`")
    return path, values
