# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of requests and replies, coded in threads of their own; what comes of each goes back to the server as an event."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ..errors import one_line
from . import images
from .backend import Stepped
from .batching import Work
from .protocol import Progress, ProtocolError, Result, encode


@dataclass(frozen=True)
class Decoded:
    """A request's image: pixels, or why there are none."""

    work: Work
    outcome: np.ndarray | ProtocolError


@dataclass(frozen=True)
class Encoded:
    """A refined image as the frames of its result, or why there are none."""

    work: Work
    outcome: list | ProtocolError


@dataclass(frozen=True)
class Shown:
    """A progress message with its preview; ``step``: the one that it shows."""

    work: Work
    step: int
    frames: list


def decode_image(work: Work) -> Decoded:
    request = work.request
    try:
        return Decoded(work, images.to_pixels(request.image, request.width, request.height, request.encoding))
    except Exception as error:
        # Whatever a broken file does to a decoder, somebody waits for an answer.
        return Decoded(work, ProtocolError("bad-image", one_line(error)))


def encode_result(work: Work, pixels: np.ndarray) -> Encoded:
    request = work.request
    try:
        image = images.to_bytes(pixels, request.reply_encoding)
        height, width = pixels.shape[:2]
        seconds = time.monotonic() - work.arrived
        size = {"width": width, "height": height, "encoding": request.reply_encoding}
        return Encoded(work, encode(Result(id=request.id, **size, seconds=seconds, image=image)))
    except Exception as error:
        return Encoded(work, ProtocolError("failed", one_line(error)))


def encode_preview(work: Work, event: Stepped, pixels: np.ndarray) -> Shown:
    height, width = pixels.shape[:2]
    size = {"width": width, "height": height, "encoding": "jpeg"}
    image = images.to_bytes(pixels, "jpeg")
    return Shown(work, event.step, encode(Progress(id=work.request.id, step=event.step, steps=event.steps, **size, image=image)))
