# SPDX-License-Identifier: GPL-3.0-or-later
"""Still images by the intra coding of video codecs, through PyAV: HEVC by x265, AV1 by SVT-AV1.

Colours are BT.601 YCbCr with chroma at half the resolution, as in BPG's default. Both encoders run in one thread, so that the same
image gives the same bytes.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import ClassVar

import numpy as np

from ....errors import extra
from .base import ImageCodec, pad_even

#: x265 and SVT-AV1 have smallest sizes of images; their blocks are of 64 pixels.
LEAST_SIDE = 64


def import_av():
    """PyAV. Raises MissingExtra where it is not installed."""
    # Read by SVT-AV1 when it begins: errors alone are printed.
    os.environ.setdefault("SVT_LOG", "1")
    with extra("evaluate", "HEVC and AV1"):
        import av
    return av


class _StillVideo(ImageCodec):
    """One key frame of a video codec."""

    encoder: ClassVar[str]
    decoder: ClassVar[str]

    def __init__(self) -> None:
        self._av = import_av()
        for name, mode in ((self.encoder, "w"), (self.decoder, "r")):
            try:
                self._av.codec.Codec(name, mode)
            except ValueError:
                raise ValueError(f"image codec '{self.name}' needs {name}, which this build of PyAV does not have") from None

    def options(self, setting: int) -> dict[str, str]:
        raise NotImplementedError

    def encode(self, pixels: np.ndarray, setting: int) -> bytes:
        pixels = pad_even(pixels, 8, LEAST_SIDE)
        context = self._av.CodecContext.create(self.encoder, "w")
        context.height, context.width = pixels.shape[:2]
        context.pix_fmt, context.time_base, context.thread_count = "yuv420p", Fraction(1, 25), 1
        context.options = self.options(setting)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")
        frame.pts = 0
        return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        frame = self._frame(data)
        if frame is None:
            raise ValueError(f"image codec '{self.name}' does not decode what it encoded")
        return frame.to_ndarray(format="rgb24")[:height, :width]

    def _frame(self, data: bytes):
        return decode_frame(self._av, self.decoder, data)


class Hevc(_StillVideo):
    """HEVC intra, x265: parameter sets and one slice in Annex B's format, without container and SEI.

    The setting is the QP. x265's own defaults are psychovisual; they cost some PSNR and are kept, as whoever uses them has them.
    """

    name, encoder, decoder = "hevc", "libx265", "hevc"
    coarsest, finest = 51, 0

    #: Bytes behind the data, for the decoder reads beyond their end.
    PADDING = 64

    #: Side of the coding tree units, in which images are decoded row by row, pixels.
    UNIT = 64

    def options(self, setting: int) -> dict[str, str]:
        # ipratio: otherwise an intra frame would get a QP 3 below the one that is asked for.
        parameters = f"qp={setting}:ipratio=1:keyint=1:info=0:frame-threads=1:pools=none:wpp=0:log-level=none"
        return {"preset": "slow", "x265-params": parameters}

    def _frame(self, data: bytes):
        return super()._frame(data + bytes(self.PADDING))

    def salvage(self, data: bytes, height: int, width: int) -> np.ndarray | None:
        """As ffmpeg decodes it. From the first coding tree unit that depends on missing bytes on: the mean colour of the others.

        ffmpeg itself goes on beyond the end of the data: which units depend on what is there shows when two different ends give
        different units.
        """
        frames = [decode_frame(self._av, self.decoder, data + end * self.PADDING) for end in (b"\x00", b"\xa5")]
        if frames[0] is None or frames[1] is None:
            return None
        first, second = (frame.to_ndarray(format="rgb24") for frame in frames)
        if first.shape != second.shape or first.shape[0] < height or first.shape[1] < width:
            return None
        differ = (first != second).any(axis=2) | _never_written(frames[0])
        unknown = np.pad(differ, [(0, -side % self.UNIT) for side in differ.shape])
        rows, columns = (side // self.UNIT for side in unknown.shape)
        units = unknown.reshape(rows, self.UNIT, columns, self.UNIT).any(axis=(1, 3))
        units = np.logical_or.accumulate(units.ravel()).reshape(units.shape)
        missing = units.repeat(self.UNIT, 0).repeat(self.UNIT, 1)[: first.shape[0], : first.shape[1]]
        if missing.all():
            return None
        first[missing] = np.round(first[~missing].mean(axis=0))
        return first[:height, :width]


class Av1(_StillVideo):
    """AV1 still image, SVT-AV1: open bitstream units without container. The setting is SVT-AV1's CRF."""

    name, encoder, decoder = "av1", "libsvtav1", "libdav1d"
    coarsest, finest = 63, 1

    #: A temporal delimiter, which a file of one image does without.
    DELIMITER = b"\x12\x00"

    def options(self, setting: int) -> dict[str, str]:
        return {"preset": "4", "crf": str(setting), "svtav1-params": "avif=1:lp=1"}

    def encode(self, pixels: np.ndarray, setting: int) -> bytes:
        return super().encode(pixels, setting).removeprefix(self.DELIMITER)


def decode_frame(av, decoder: str, data: bytes):
    """The first frame that ffmpeg decodes, with its errors shown as a viewer shows them; None where there is none."""
    context = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    context.options = {"flags": "output_corrupt", "flags2": "showall", "err_detect": "ignore_err"}
    frames: list = []
    for packet in (av.Packet(data), None):
        try:
            frames += context.decode(packet)
        except av.error.FFmpegError:
            continue
    return frames[0] if frames else None


def _never_written(frame) -> np.ndarray:
    """Pixels that the decoder left as its buffer was: zero in all three planes, which no encoder writes. bool (H, W)."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[: plane.height, : plane.width] == 0)
    luma, chroma = planes[0], planes[1] & planes[2]
    chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)[: luma.shape[0], : luma.shape[1]]
    return luma & chroma
