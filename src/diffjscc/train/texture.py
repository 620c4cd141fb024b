# SPDX-License-Identifier: GPL-3.0-or-later
"""How much detail belongs where: a loss on local energy, whatever the detail looks like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Octaves of spatial frequency that are compared, from the finest.
OCTAVES = 3

#: Side of the window over which energy is averaged, pixels of its octave.
WINDOW = 8

#: Against the root's infinite slope at zero: a deviation of a quarter of a grey level.
FLOOR = (0.25 / 255) ** 2

#: RGB to luminance and two colour differences (ITU-R BT.601), so that coloured grain cannot pass for texture.
YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def texture_loss(refined: Tensor, original: Tensor) -> Tensor:
    """Mean difference of the local deviation of each octave and colour component; both (N, 3, H, W) in [0, 1].

    A critic alone finds out late that grain on a clear sky is wrong; this says at once how strong detail should be at
    every place, and leaves it to the critic what the detail should look like.
    """
    pairs = zip(_local_deviations(refined), _local_deviations(original))
    return sum((given - wanted).abs().mean() for given, wanted in pairs) / OCTAVES


def _local_deviations(images: Tensor) -> list[Tensor]:
    fine = F.conv2d(images, torch.tensor(YCBCR, device=images.device)[..., None, None])
    deviations = []
    for _ in range(OCTAVES):
        coarse = F.avg_pool2d(fine, 2)
        detail = fine - F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        deviations.append((F.avg_pool2d(detail.square(), WINDOW, stride=WINDOW // 2) + FLOOR).sqrt())
        fine = coarse
    return deviations
