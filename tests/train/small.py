# SPDX-License-Identifier: GPL-3.0-or-later
"""Trainings small enough to test with."""

import torch
from conftest import SMALL

from diffjscc.hub import load_codec
from diffjscc.train.codec import CodecRecipe

QUICK = {"steps": 4, "batch": 2, "crop": 48, "seed": 3}


def codec_recipe(architecture="lite", **values):
    """A recipe for a small codec of an architecture, or for one of that configuration."""
    options = SMALL[architecture] if isinstance(architecture, str) else architecture
    return CodecRecipe(**{"architecture": options, **QUICK, **values})


def weights(run):
    """Of the codec that a run exported."""
    return load_codec(run / "model", dtype=torch.float32).state_dict()
