# SPDX-License-Identifier: GPL-3.0-or-later
"""Do these tensors belong to this network, and are they numbers?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Models are stored in float16. From this value on, rounding to float16 gives infinity; its largest number is 65504.
FLOAT16_LIMIT = 65520.0


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor | Sequence[int]], where: object) -> None:
    """Raises ValueError where a tensor is missing, left over, misshapen or of the wrong kind; the line begins with ``where``.

    expected  tensors of the network, which may be on the device "meta"
    given     tensors, or their shapes alone
    """
    for kind, names in (("lacks", expected.keys() - given.keys()), ("has unknown", given.keys() - expected.keys())):
        if names:
            raise ValueError(f"{where} {kind} {len(names)} tensors, such as {min(names)}: it is not of this configuration")
    for name, value in given.items():
        shape, wanted = tuple(getattr(value, "shape", value)), tuple(expected[name].shape)
        if shape != wanted:
            raise ValueError(f"{where}: tensor {name} is {shape}, the configuration asks for {wanted}")
        dtype = getattr(value, "dtype", None)
        if dtype is not None and expected[name].is_floating_point() and not dtype.is_floating_point:
            raise ValueError(f"{where}: tensor {name} is of type {dtype}, the network computes with floating-point numbers")


def check_finite(weights: Mapping[str, Tensor], where: object) -> None:
    """Raises ValueError where a tensor holds NaN, infinity or a value that float16 cannot hold; the line begins with ``where``."""
    import torch

    for name, value in weights.items():
        if not value.is_floating_point() or not value.numel():
            continue
        # Types of one byte have no minimum and maximum of their own.
        low, high = torch.aminmax(value if value.itemsize > 1 else value.float())
        # Both are NaN where one value is.
        peak = max(-low.item(), high.item())
        if not math.isfinite(peak):
            raise ValueError(f"{where}: tensor {name} does not fit float16: it holds NaN or infinite values")
        if peak >= FLOAT16_LIMIT:
            raise ValueError(f"{where}: tensor {name} does not fit float16: it reaches {peak:.4g}, float16 ends at 65504")
