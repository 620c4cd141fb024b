# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes: what a training computes, in a YAML file that a person reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import yaml

from ..fields import Fields, nearest
from ..packaged import packaged_folder, read_yaml
from ..symbols import BLOCK
from . import KINDS, recipe_class

#: Mixed precisions, as Accelerate names them.
PRECISIONS = ("no", "bf16", "fp16")

#: Keys that change how a run is computed and not, but for rounding, what: a run may go on with others.
FREE_KEYS = ("steps", "accumulate", "compile", "gradient_checkpointing")


@dataclass(frozen=True, kw_only=True)
class Recipe(Fields):
    """What every training has.

    steps       optimiser steps in all
    batch       crops of an optimiser step, over all processes
    crop        side of a crop, pixels
    accumulate  parts in which a process computes its share of a batch, one after the other, to save memory
    precision   mixed precision of Accelerate: "no", "bf16" or "fp16"
    compile     whether torch.compile compiles the networks
    seed        of weights, crops, noise and everything else that is drawn

    Raises ValueError for values that make no training.
    """

    #: Name in recipe files.
    kind: ClassVar[str]

    steps: int
    batch: int
    crop: int
    accumulate: int = 1
    precision: str = "bf16"
    compile: bool = False
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "batch", "accumulate"):
            self.check(name, getattr(self, name) >= 1, "at least 1")
        self.check("crop", self.crop >= 2 * BLOCK and self.crop % BLOCK == 0, f"a multiple of {BLOCK}, at least {2 * BLOCK}")
        self.check("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        self.check("accumulate", self.batch % self.accumulate == 0, f"a divisor of batch = {self.batch}")
        self.check("seed", self.seed >= 0, "at least 0")

    def check_above_zero(self, *names: str) -> None:
        for name in names:
            self.check(name, getattr(self, name) > 0, "above 0")

    def check_share(self, name: str) -> None:
        self.check(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")

    def check_average(self) -> None:
        self.check("ema", 0 <= vars(self)["ema"] < 1, "at least 0 and below 1")

    def check_snr_range(self) -> None:
        low_high = vars(self)["snr_range_db"]
        self.check("snr_range_db", not low_high or (len(low_high) == 2 and low_high[0] <= low_high[1]), "[lowest, highest]")


def recipe_summary(name: str) -> str:
    """What a recipe that comes with the package is for: the first sentence of its comment."""
    lines = (packaged_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = (line.lstrip("# ") for line in lines[1:] if line.startswith("#"))
    return next((text for text in comment if text), "")


def load_recipe(source: str | os.PathLike, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with ``key=value`` changes; values are written as in YAML, nested keys with dots.

    Raises ValueError for a recipe that does not exist, a key that it does not have (and names the nearest one), or a value
    of the wrong type.
    """
    path, values = read_yaml(source, "recipe", "kind: codec")
    try:
        cls = _class_of(values)
        for change in changes:
            _change(values, change, cls)
        return build_recipe(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its values, with ``kind``. Raises ValueError as `load_recipe` does."""
    return _class_of(values).of({key: value for key, value in values.items() if key != "kind"})


def as_values(recipe: Recipe) -> dict[str, Any]:
    """What `build_recipe` makes the recipe of again, in plain types."""
    return {"kind": recipe.kind, **asdict(recipe)}


def as_yaml(recipe: Recipe) -> str:
    """The recipe as a file."""
    return yaml.safe_dump(as_values(recipe), sort_keys=False, allow_unicode=True)


def _class_of(values: Mapping[str, Any]) -> type[Recipe]:
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}{nearest(str(kind), list(KINDS))}")
    return recipe_class(kind)


def _change(values: dict[str, Any], change: str, cls: type[Recipe]) -> None:
    """Applies one ``key=value``; a key with dots reaches into a nested mapping."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ValueError(f"'{change}': expected key=value, such as steps=1000")
    outer, dot, inner = key.partition(".")
    if key == "kind":
        raise ValueError(f"'{change}': the kind of a recipe cannot be changed: name another recipe")
    owner: type[Fields] = cls
    if dot:
        owner = cls.nested.get(outer, Fields)
        # A copy: the recipe's own mapping may be shared by YAML's anchors.
        values[outer] = dict(values[outer]) if isinstance(values.get(outer), dict) else {}
        values = values[outer]
    annotations = {field.name: str(field.type) for field in fields(owner)}
    values[inner if dot else key] = _parse(text, annotations.get(inner if dot else key, ""), change)


def _parse(text: str, annotation: str, change: str) -> Any:
    # What is text anyway needs no quotes: a folder may be called 007, or no.
    if annotation == "str" and text[:1] not in ("'", '"'):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"'{change}': '{text}' is no YAML value: put it in quotes") from None
