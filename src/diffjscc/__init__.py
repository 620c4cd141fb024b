# SPDX-License-Identifier: GPL-3.0-or-later
"""Diffusion-aided joint source-channel coding of images (Yang et al., arXiv 2404.17736).

This package never imports GNU Radio; the blocks are `gnuradio.diffjscc`. Importing it does not import torch.
"""

__version__ = "0.1.0"
