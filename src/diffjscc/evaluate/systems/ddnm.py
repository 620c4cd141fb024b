# SPDX-License-Identifier: GPL-3.0-or-later
"""DDNM on Stable Diffusion, the paper's baseline after Yilmaz et al. (2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .diffjscc import DiffJSCC


@dataclass(frozen=True, kw_only=True)
class DDNM(DiffJSCC):
    """image ─► codec ─► symbols ─► channel ─► codec ─► initial reconstruction ─► DDNM on Stable Diffusion ─► image

    Stable Diffusion as it was before its control module; at each step the predicted image takes over the means of 2×2 pixels of the
    initial reconstruction (see `diffjscc.refine.range_null`).

    refiner  name or folder of a refiner on Stable Diffusion, of which UNet, VAE and scheduler are used; none comes with the package
    factor   side of the squares, pixels
    """

    name: ClassVar[str] = "ddnm"

    refiner: str = ""
    colour_fix: str = "none"
    use_text: bool = False
    use_spatial: bool = False
    factor: int = 2

    def __post_init__(self):
        if not self.refiner:
            raise ValueError(
                "ddnm needs a refiner on Stable Diffusion, and none comes with the package: get the authors' by "
                "`diffjscc models pull DiffJSCC-OpenImage-CBR-1-384`, and write refiner: DiffJSCC-OpenImage-CBR-1-384"
            )
        super().__post_init__()

    def _options(self) -> dict[str, Any]:
        from ...refine.range_null import RangeNull

        return super()._options() | {"range_null": RangeNull(self.factor)}
