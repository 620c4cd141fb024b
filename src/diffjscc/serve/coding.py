# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding and encoding of the images in requests and replies, in threads of their own. Each result is an event for the server."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ..errors import one_line
from . import images
from .backend import Stepped
from .batching import Task
from .protocol import Frames, Progress, ProtocolError, Result, encode


@dataclass(frozen=True)
class Decoded:
    """A request's pixels, or why they could not be decoded."""

    task: Task
    outcome: np.ndarray | ProtocolError


@dataclass(frozen=True)
class Encoded:
    """The frames of a result, or why the refined image could not be encoded."""

    task: Task
    outcome: Frames | ProtocolError


@dataclass(frozen=True)
class EncodedPreview:
    """The frames of a progress message with a preview of ``step``."""

    task: Task
    step: int
    frames: Frames


def decode_image(task: Task) -> Decoded:
    request = task.request
    try:
        return Decoded(task, images.to_pixels(request.image, request.width, request.height, request.encoding))
    except Exception as error:
        # Whatever error a damaged file causes in the decoder, the client gets a reply.
        return Decoded(task, ProtocolError("bad-image", one_line(error)))


def encode_result(task: Task, pixels: np.ndarray) -> Encoded:
    request = task.request
    try:
        image = images.to_bytes(pixels, request.reply_encoding)
        height, width = pixels.shape[:2]
        seconds = time.monotonic() - task.arrived
        result = Result(id=request.id, width=width, height=height, encoding=request.reply_encoding, seconds=seconds, image=image)
        return Encoded(task, encode(result))
    except Exception as error:
        return Encoded(task, ProtocolError("failed", one_line(error)))


def encode_preview(task: Task, event: Stepped, pixels: np.ndarray) -> EncodedPreview:
    height, width = pixels.shape[:2]
    progress = Progress(
        id=task.request.id,
        step=event.step,
        steps=event.steps,
        width=width,
        height=height,
        encoding="jpeg",
        image=images.to_bytes(pixels, "jpeg"),
    )
    return EncodedPreview(task, event.step, encode(progress))
