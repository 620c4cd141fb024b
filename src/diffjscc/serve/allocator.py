# SPDX-License-Identifier: GPL-3.0-or-later
"""How a process that refines on a CPU had better keep its memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: Of glibc's malloc.h, and what they are set to: the largest there is, and one arena, the only one that grows without bound.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
SETTINGS = {M_TRIM_THRESHOLD: (1 << 31) - 1, M_MMAP_THRESHOLD: 1 << 30, M_ARENA_MAX: 1}


def keep_pages() -> None:
    """Has glibc keep the memory that a layer's activations took for the next layer's; elsewhere does nothing.

    By default it gives tensors of more than 32 MB back to the kernel, which fills every page with zeros anew: an image of
    768×512 through `mini` then takes a tenth longer and eight at once more than twice as long. To be called at the start
    of a process of one's own, before there are threads; what was once used stays the process's.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
