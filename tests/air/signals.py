# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that tests of the air interface send."""

import numpy as np


def gaussian(count, variance=1.0, seed=0):
    """complex64 (count,) with this variance a complex value."""
    values = np.random.default_rng(seed).standard_normal((count, 2)) @ [1, 1j]
    return (values * np.sqrt(variance / 2)).astype(np.complex64)
