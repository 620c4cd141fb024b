# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio blocks for diffusion-aided joint source-channel coding of images.

Each block adapts streams, tags and messages to a call into the package `diffjscc`; importing them does not import torch.
"""

from .environment import find_package

# Before the blocks, which import it.
find_package()

from . import forms as forms
from .audio_demodulator import audio_demodulator
from .audio_modulator import audio_modulator
from .burst_rx import burst_rx
from .burst_stages import burst_demodulator, burst_detector
from .burst_tx import burst_tx
from .camera_source import camera_source
from .folder_source import folder_source
from .image_file_sink import image_file_sink
from .jscc_decoder import jscc_decoder
from .jscc_encoder import jscc_encoder
from .jscc_rx import jscc_rx
from .jscc_sink import jscc_sink
from .jscc_source import jscc_source
from .jscc_tx import jscc_tx
from .local_refinement import LocalRefinement
from .qt_image_view import qt_image_view
from .refine_client import refine_client
from .remote_refinement import RemoteRefinement
from .separate_sink import separate_sink
from .separate_source import separate_source

__all__ = [
    "LocalRefinement",
    "RemoteRefinement",
    "audio_demodulator",
    "audio_modulator",
    "burst_demodulator",
    "burst_detector",
    "burst_rx",
    "burst_tx",
    "camera_source",
    "folder_source",
    "image_file_sink",
    "jscc_decoder",
    "jscc_encoder",
    "jscc_rx",
    "jscc_sink",
    "jscc_source",
    "jscc_tx",
    "qt_image_view",
    "refine_client",
    "separate_sink",
    "separate_source",
]
