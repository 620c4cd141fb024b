# SPDX-License-Identifier: GPL-3.0-or-later
"""The refinement service: initial reconstructions in, refined images out, over ZeroMQ. See docs/refinement-service.md.

The client neither imports nor needs torch: a machine that only passes images on can do without it.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .client import Job, RefineClient, RefineError, RefineTimeout

__all__ = ["Job", "RefineClient", "RefineError", "RefineTimeout"]

__getattr__, __dir__ = on_first_use(globals(), dict.fromkeys(__all__, ".client"))
