# SPDX-License-Identifier: GPL-3.0-or-later
"""The convolutions of AlexNet and VGG16, layer for layer as torchvision numbers them, so that its weights fit."""

from __future__ import annotations

from torch import nn

#: Output channels of VGG16's convolutions; "pool" halves the resolution.
VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def alexnet_features() -> nn.Sequential:
    """(N, 3, H, W) → (N, 256, H/32, W/32) (Krizhevsky, 2014)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )


def vgg16_features() -> nn.Sequential:
    """(N, 3, H, W) → (N, 512, H/32, W/32) (Simonyan and Zisserman, 2015, configuration D)."""
    layers: list[nn.Module] = []
    width = 3
    for channels in VGG16:
        if isinstance(channels, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
    return nn.Sequential(*layers)
