# SPDX-License-Identifier: GPL-3.0-or-later
"""What client and server say to each other: messages, and the frames they travel in.

    [b"diffjscc-refine/1", header: a MessagePack map with "type" and the fields below, image: bytes where there is one]

A message's dataclass is its specification: a field without a default must be sent, a field that is not named here is refused,
and every value is checked against a bound before anything is done with it. docs/refinement-service.md says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import msgpack

from ..errors import one_line

NAME = b"diffjscc-refine/"
VERSION = NAME + b"1"

#: The longest header, bytes.
MAX_HEADER = 1 << 16

#: The longest image in bytes, encoded or as raw pixels: 22 megapixels.
MAX_IMAGE = 1 << 26

#: The smallest side that a refiner accepts, pixels.
MIN_SIDE = 16

#: Three bytes a pixel: RGB.
CHANNELS = 3

ENCODINGS = ("raw", "png", "jpeg")

#: Why a request was not answered with an image, and whether the same request may succeed later.
CODES = {
    "version": False,
    "bad-request": False,
    "too-large": False,
    "bad-image": False,
    "unknown-refiner": False,
    "duplicate": False,
    "unknown-id": False,
    "cancelled": False,
    "failed": False,
    "deadline": True,
    "draining": True,
    "lost": True,
}


class ProtocolError(ValueError):
    """A message that cannot be accepted: code, one line, and whether sending it again later may help."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, CODES[code]
        #: Of the message, where it has a proper one.
        self.id: str | None = None


def _bad(message: str) -> ProtocolError:
    return ProtocolError("bad-request", message)


def _shown(value: object) -> str:
    """A value from outside, for an error message. Long ones are not even formatted."""
    if isinstance(value, (str, bytes)):
        return one_line(repr(value[:40]))
    return one_line(repr(value), 40) if isinstance(value, (int, float, bool, type(None))) else f"a {type(value).__name__}"


# Checks: value → value, or None where it is wrong, with what is expected beside.


def _text(longest: int, shortest: int = 0, printable: bool = False) -> tuple[Callable, str]:
    def check(value):
        right = isinstance(value, str) and shortest <= len(value) <= longest
        return value if right and (not printable or value.isprintable()) else None

    return check, f"{'printable ' if printable else ''}text of {shortest} to {longest} characters"


def _whole(low: int, high: int) -> tuple[Callable, str]:
    return (
        lambda value: value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None,
        f"a whole number from {low} to {high}",
    )


def _number(low: float, high: float) -> tuple[Callable, str]:
    def check(value):
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
        return float(value) if right else None

    return check, f"a number from {low:g} to {high:g}"


def _choice(names: Sequence[str]) -> tuple[Callable, str]:
    return lambda value: value if isinstance(value, str) and value in names else None, f"one of {', '.join(names)}"


def _truth() -> tuple[Callable, str]:
    return lambda value: value if isinstance(value, bool) else None, "true or false"


def _names() -> tuple[Callable, str]:
    def check(value):
        right = isinstance(value, (list, tuple)) and all(isinstance(name, str) and len(name) <= 128 for name in value)
        return tuple(value) if right and len(value) <= 256 else None

    return check, "a list of at most 256 names"


def _of(check: tuple[Callable, str], default: Any = MISSING, optional: bool = False) -> Any:
    """A field of a message; an ``optional`` one may be nil."""
    metadata = {"check": check[0], "expected": check[1] + (", or nil" if optional else ""), "optional": optional}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


_ID = _text(64, 1, printable=True)
_SECONDS = (0.0, 7 * 86400.0)
_SIDE = (MIN_SIDE, MAX_IMAGE)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What all messages have: a type, fields that are checked, and ``image``, bytes or a view of bytes, where there is one."""

    type: ClassVar[str]
    has_image: ClassVar[bool] = False

    def __post_init__(self):
        for spec in fields(self):
            if "check" not in spec.metadata:
                continue
            value = getattr(self, spec.name)
            if value is None and spec.metadata["optional"]:
                continue
            checked = spec.metadata["check"](value)
            if checked is None:
                raise _bad(f"field {spec.name} of {self.type} is {_shown(value)}: expected {spec.metadata['expected']}")
            object.__setattr__(self, spec.name, checked)


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """Client to server: refine this image.

    id              the client's choice, unique to it; the same again means the same request, computed once
    refiner           a name that the server's operator gave
    steps, sampler  of the refiner; nil: the refiner's own
    seed            of the noise; the same again gives the same image
    snr_db          at which the image was received; nil where it is not known
    prompt          what it shows, for refiners that take text; nil: a caption where the refiner has a captioner
    deadline        seconds from receipt: a duration, so that no two clocks need agree. Work is not started after it
    width, height   pixels
    encoding        of the image in this message; raw: RGB, row by row, top row first
    reply_encoding  of the refined one
    progress        whether to tell of steps; preview: with an image of the state, where the refiner has more than one step
    """

    type: ClassVar[str] = "refine"
    has_image: ClassVar[bool] = True

    id: str = _of(_ID)
    refiner: str = _of(_text(128, 1, printable=True))
    width: int = _of(_whole(*_SIDE))
    height: int = _of(_whole(*_SIDE))
    encoding: str = _of(_choice(ENCODINGS))
    reply_encoding: str = _of(_choice(ENCODINGS), "png")
    steps: int | None = _of(_whole(1, 10_000), None, optional=True)
    sampler: str | None = _of(_text(32, 1, printable=True), None, optional=True)
    seed: int = _of(_whole(0, (1 << 63) - 1), 0)
    snr_db: float | None = _of(_number(-100, 100), None, optional=True)
    prompt: str | None = _of(_text(2000), None, optional=True)
    deadline: float = _of(_number(*_SECONDS), 60.0)
    progress: bool = _of(_truth(), False)
    preview: bool = _of(_truth(), False)
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_image(self.width, self.height, self.encoding, len(self.image))


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """Client to server: never mind. Answered by error "cancelled", or "unknown-id" where nothing of that id is left to do."""

    type: ClassVar[str] = "cancel"
    id: str = _of(_ID)


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """Client to server: are you there?"""

    type: ClassVar[str] = "ping"


@dataclass(frozen=True, kw_only=True)
class Accepted(Message):
    """Server to client: the request is queued, or was already."""

    type: ClassVar[str] = "accepted"
    id: str = _of(_ID)


@dataclass(frozen=True, kw_only=True)
class Progress(Message):
    """Server to client: step of steps is done. With a preview: its size and encoding, and the image."""

    type: ClassVar[str] = "progress"
    has_image: ClassVar[bool] = True

    id: str = _of(_ID)
    step: int = _of(_whole(1, 10_000))
    steps: int = _of(_whole(1, 10_000))
    width: int | None = _of(_whole(*_SIDE), None, optional=True)
    height: int | None = _of(_whole(*_SIDE), None, optional=True)
    encoding: str | None = _of(_choice(ENCODINGS), None, optional=True)
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        given = [value is not None for value in (self.width, self.height, self.encoding)]
        if all(given):
            check_image(self.width, self.height, self.encoding, len(self.image))
        elif any(given) or len(self.image):
            raise _bad("progress has part of a preview: expected width, height, encoding and an image, or none of them")


@dataclass(frozen=True, kw_only=True)
class Result(Message):
    """Server to client: the refined image, and the seconds from receipt to it."""

    type: ClassVar[str] = "result"
    has_image: ClassVar[bool] = True

    id: str = _of(_ID)
    width: int = _of(_whole(*_SIDE))
    height: int = _of(_whole(*_SIDE))
    encoding: str = _of(_choice(ENCODINGS))
    seconds: float = _of(_number(*_SECONDS))
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_image(self.width, self.height, self.encoding, len(self.image))


@dataclass(frozen=True, kw_only=True)
class Error(Message):
    """Server to client: no image. ``id`` is nil where the message was too broken to have one."""

    type: ClassVar[str] = "error"
    id: str | None = _of(_ID, None, optional=True)
    code: str = _of(_text(32, 1, printable=True))
    message: str = _of(_text(1000, printable=True))
    retryable: bool = _of(_truth())


@dataclass(frozen=True, kw_only=True)
class Busy(Message):
    """Server to client: the queue is full; try again in ``retry_after`` seconds."""

    type: ClassVar[str] = "busy"
    id: str = _of(_ID)
    message: str = _of(_text(1000, printable=True))
    retry_after: float = _of(_number(0, 3600))


@dataclass(frozen=True, kw_only=True)
class Pong(Message):
    """Server to client: version of the software, a name that is new each time the server starts, and what it is at."""

    type: ClassVar[str] = "pong"
    version: str = _of(_text(64, printable=True))
    instance: str = _of(_text(64, 1, printable=True))
    refiners: tuple[str, ...] = _of(_names())
    queued: int = _of(_whole(0, 1 << 31))
    running: int = _of(_whole(0, 1 << 31))


MESSAGES = {cls.type: cls for cls in (Request, Cancel, Ping, Accepted, Progress, Result, Error, Busy, Pong)}


def check_image(width: int, height: int, encoding: str, size: int) -> None:
    """Raises ProtocolError unless an image of ``size`` bytes can be what its header declares."""
    raw = width * height * CHANNELS
    if raw > MAX_IMAGE:
        raise ProtocolError(
            "too-large", f"image is declared {width}×{height}, {raw} bytes of pixels: at most {MAX_IMAGE} are accepted"
        )
    if size > MAX_IMAGE:
        raise ProtocolError("too-large", f"image has {size} bytes: at most {MAX_IMAGE} are accepted")
    if encoding == "raw" and size != raw:
        raise ProtocolError("bad-image", f"raw image of {width}×{height} has {size} bytes: expected {raw}")
    if size == 0:
        raise ProtocolError("bad-image", "image is empty: expected it in the third frame")


def encode(message: Message) -> list[bytes | memoryview]:
    """The frames of a message."""
    header = {"type": message.type}
    for spec in fields(message):
        value = getattr(message, spec.name)
        if spec.name != "image" and not (spec.default is None and value is None):
            header[spec.name] = value
    image = getattr(message, "image", b"")
    return [VERSION, msgpack.packb(header), *([image] if len(image) else [])]


def decode(frames: Sequence[bytes | memoryview]) -> Message:
    """The message in frames. Raises ProtocolError naming what is wrong; its ``id`` is the message's, where it has a proper one."""
    header: dict = {}
    try:
        header = _header(frames)
        return _message(header, frames)
    except ProtocolError as error:
        error.id = _ID[0](header.get("id"))
        raise


def _header(frames: Sequence[bytes | memoryview]) -> dict:
    if not frames or bytes(frames[0][:64]) != VERSION:
        shown = _shown(bytes(frames[0][:64])) if frames else "nothing"
        raise ProtocolError("version", f"first frame is {shown}: this end speaks {VERSION.decode()}")
    if not 2 <= len(frames) <= 3:
        raise _bad(f"message has {len(frames)} frames: expected version, header and, where there is one, image")
    if len(frames[1]) > MAX_HEADER:
        raise ProtocolError("too-large", f"header has {len(frames[1])} bytes: at most {MAX_HEADER} are accepted")
    try:
        header = msgpack.unpackb(
            frames[1],
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_HEADER,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=256,
            max_map_len=64,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise _bad(f"header is not MessagePack within limits: {one_line(error, 80)}") from None
    if not isinstance(header, dict):
        raise _bad(f"header is {_shown(header)}: expected a map")
    return header


def _message(header: dict, frames: Sequence[bytes | memoryview]) -> Message:
    kind = header.get("type")
    cls = MESSAGES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise _bad(f"type is {_shown(kind)}: expected one of {', '.join(MESSAGES)}")
    specs = {spec.name: spec for spec in fields(cls) if spec.name != "image"}
    unknown = [name for name in header if name != "type" and name not in specs]
    if unknown:
        raise _bad(f"{kind} has an unknown field {_shown(unknown[0])}: it knows {', '.join(specs) or 'none'}")
    missing = [name for name, spec in specs.items() if spec.default is MISSING and name not in header]
    if missing:
        raise _bad(f"{kind} lacks field {missing[0]}: expected {specs[missing[0]].metadata['expected']}")
    if len(frames) == 3 and not cls.has_image:
        raise _bad(f"{kind} has a third frame: it carries no image")
    image = {"image": frames[2]} if len(frames) == 3 else {}
    return cls(**{name: value for name, value in header.items() if name != "type"}, **image)
