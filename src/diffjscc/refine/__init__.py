# SPDX-License-Identifier: GPL-3.0-or-later
"""The refiner: a diffusers pipeline that restores realistic detail in an initial reconstruction.

Importing this package makes the pipeline and its networks known to diffusers, which loads only what was imported:

    import diffjscc.refine
    from diffusers import DiffusionPipeline

    refiner = DiffusionPipeline.from_pretrained("models/mini")
"""

import diffusers

from .pipeline import DiffJSCCPipeline

# DiffusionPipeline.from_pretrained looks up the class that model_index.json names in diffusers' own namespace.
diffusers.DiffJSCCPipeline = DiffJSCCPipeline

__all__ = ["DiffJSCCPipeline"]
