# SPDX-License-Identifier: GPL-3.0-or-later
"""Importing Ray and connecting to it, for whatever spreads work over machines."""

from __future__ import annotations

import os
import secrets
from typing import Any

from .errors import extra

#: Address for a Ray instance that is started here, and ended with this process.
LOCAL = "local"


def import_ray(address: str, purpose: str) -> Any:
    """The module ``ray``, told what this package wants of it.

    address  that Ray will be connected to
    purpose  what needs it, for the message: "--cluster"

    Raises MissingExtra where Ray is not installed.
    """
    # Ray reads these variables when it is imported: no usage statistics, and no messages about errors that are handled here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == LOCAL:
        # Ray listens on every interface. A token that only its own processes know keeps others out.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with extra("cluster", purpose):
        import ray
    return ray
