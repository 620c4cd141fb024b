# SPDX-License-Identifier: GPL-3.0-or-later
"""The refinement service: initial reconstructions in, refined images out, over ZeroMQ. See docs/refinement-service.md.

Importing it imports no torch: a radio machine needs none.
"""

from .client import Job, RefineClient, RefineError, RefineTimeout

__all__ = ["Job", "RefineClient", "RefineError", "RefineTimeout"]
