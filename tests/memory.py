# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory torch is asked for, counted without allocators and clocks."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Inside the block, ``bytes`` becomes the size of the largest tensor with memory of its own that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        outcome = operation(*arguments, **(options or {}))
        for value in tree_leaves(outcome):
            if isinstance(value, torch.Tensor) and not value.is_meta and value.layout == torch.strided:
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return outcome
