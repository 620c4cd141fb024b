# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: recipes, and a trainer for each kind of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipes import Recipe
    from .run import Run

#: By the kind of recipe: the module, the class of its recipes and that of its trainer.
KINDS = {
    "codec": ("codec", "CodecRecipe", "CodecTrainer"),
    "vae": ("vae", "VaeRecipe", "VaeTrainer"),
    "refiner": ("refiner", "RefinerRecipe", "RefinerTrainer"),
    "control": ("control", "ControlRecipe", "ControlTrainer"),
}


def recipe_class(kind: str) -> type[Recipe]:
    """The class of a kind's recipes. Only its own module is imported: codecs are trained without diffusers."""
    module, name, _ = KINDS[kind]
    return getattr(import_module(f".{module}", __name__), name)


def trainer_of(recipe: Recipe) -> type[Run]:
    """The class that trains what a recipe describes."""
    module, _, name = KINDS[recipe.kind]
    return getattr(import_module(f".{module}", __name__), name)
