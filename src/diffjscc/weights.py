# SPDX-License-Identifier: GPL-3.0-or-later
"""Do these tensors belong to this network?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor | Sequence[int]], where: object) -> None:
    """Raises ValueError where a tensor is missing, left over or misshapen; the line begins with ``where``.

    ``given`` holds tensors, or their shapes alone.
    """
    for kind, names in (("lacks", expected.keys() - given.keys()), ("has unknown", given.keys() - expected.keys())):
        if names:
            raise ValueError(f"{where} {kind} {len(names)} tensors, such as {min(names)}: it is not of this configuration")
    for name, value in given.items():
        shape, wanted = tuple(getattr(value, "shape", value)), tuple(expected[name].shape)
        if shape != wanted:
            raise ValueError(f"{where}: tensor {name} is {shape}, the configuration asks for {wanted}")
