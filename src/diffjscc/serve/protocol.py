# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol between client and server: messages, and the frames that carry them.

    [b"diffjscc-refine/1", header: a MessagePack map with "type" and the fields below, image: bytes where there is one]

A message's dataclass is its specification: a field without a default is mandatory, one with a default may be left out or nil, a
field that is not declared here is refused, and every value is checked against its bounds before it is used.
docs/refinement-service.md describes the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import msgpack

from ..errors import one_line

#: The frames of a message.
Frames = list[bytes | memoryview]

#: Check of a field: value → the value, or None where it is wrong; and what is expected, for the error message.
Check = tuple[Callable[[Any], Any], str]

NAME = b"diffjscc-refine/"
VERSION = NAME + b"1"

#: The longest header, bytes.
MAX_HEADER = 1 << 16

#: The longest image in bytes, encoded or as raw pixels: 22 megapixels.
MAX_IMAGE = 1 << 26

#: The largest frame on the wire, bytes: an image, and what encryption (CURVE) adds to it.
MAX_FRAME = MAX_IMAGE + 1024

#: Frames of the longest message.
MAX_FRAMES = 3

#: The smallest side that a refiner accepts, pixels.
MIN_SIDE = 16

#: Three bytes a pixel: RGB.
CHANNELS = 3

ENCODINGS = ("raw", "png", "jpeg")

#: Error codes, and whether the same request may succeed later.
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


class Refusal(ValueError):
    """Why a message, a request or an image was refused. Raised, and passed on as an outcome; it can be pickled.

    code       one of `CODES`
    message    one line
    id         of the refused message, where it has a valid one
    retryable  whether the same request may succeed later

    Raises ValueError for an unknown code.
    """

    def __init__(self, code: str, message: str, id: str | None = None):
        if code not in CODES:
            raise ValueError(f"code '{code}' is not one of the protocol's: {', '.join(CODES)}")
        super().__init__(code, message, id)
        self.code, self.message, self.id = code, message, id

    @property
    def retryable(self) -> bool:
        return CODES[self.code]

    def __str__(self) -> str:
        return self.message


def _bad(message: str) -> Refusal:
    return Refusal("bad-request", message)


def _shown(value: object) -> str:
    """A received value, for an error message. Long values are cut before they are formatted."""
    if isinstance(value, (str, bytes)):
        return one_line(repr(value[:40]))
    return one_line(repr(value), 40) if isinstance(value, (int, float, bool, type(None))) else f"a {type(value).__name__}"


def _text(longest: int, shortest: int = 0, printable: bool = False) -> Check:
    def check(value):
        right = isinstance(value, str) and shortest <= len(value) <= longest
        return value if right and (not printable or value.isprintable()) else None

    return check, f"{'printable ' if printable else ''}text of {shortest} to {longest} characters"


def _integer(low: int, high: int) -> Check:
    return (
        lambda value: value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None,
        f"a whole number from {low} to {high}",
    )


def _number(low: float, high: float) -> Check:
    def check(value):
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
        return float(value) if right else None

    return check, f"a number from {low:g} to {high:g}"


def _choice(names: Sequence[str]) -> Check:
    return lambda value: value if isinstance(value, str) and value in names else None, f"one of {', '.join(names)}"


def _boolean() -> Check:
    return lambda value: value if isinstance(value, bool) else None, "true or false"


def _names() -> Check:
    def check(value):
        right = isinstance(value, (list, tuple)) and all(isinstance(name, str) and len(name) <= 128 for name in value)
        return tuple(value) if right and len(value) <= 256 else None

    return check, "a list of at most 256 names"


def _field(check: Check, default: Any = MISSING) -> Any:
    """A field of a message. One with a default is optional: it may be left out or nil, which means the default."""
    metadata = {"check": check[0], "expected": check[1] + ("" if default is MISSING else ", or nil")}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


_ID = _text(64, 1, printable=True)
_SECONDS = (0.0, 7 * 86400.0)
_SIDE = (MIN_SIDE, MAX_IMAGE)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What all messages have: a type, checked fields and, for some types, an ``image`` (bytes or a view of bytes)."""

    type: ClassVar[str]
    has_image: ClassVar[bool] = False

    def __post_init__(self):
        for spec in fields(self):
            if "check" not in spec.metadata:
                continue
            value = getattr(self, spec.name)
            if value is None and spec.default is not MISSING:
                # nil is the same as leaving the field out.
                object.__setattr__(self, spec.name, spec.default)
                continue
            checked = spec.metadata["check"](value)
            if checked is None:
                raise _bad(f"field {spec.name} of {self.type} is {_shown(value)}: expected {spec.metadata['expected']}")
            object.__setattr__(self, spec.name, checked)


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """Client to server: refine this image.

    id              idempotency key, chosen by the client: a request that is sent again under its id is computed once
    refiner         one of the names that the server was started with
    steps, sampler  of the refiner; nil: the refiner's default
    seed            of the noise; the same seed gives the same image
    snr_db          at which the image was received; nil where it is not known
    prompt          what the image shows, for refiners that take text; nil: a caption where the refiner has a captioner
    deadline        seconds from receipt, after which the request is not started any more. A duration, so that the clocks
                    of client and server need not agree
    width, height   pixels
    encoding        of the image in this message; raw: RGB, row by row, top row first
    reply_encoding  of the refined image
    progress        whether to report steps; preview: whether the reports carry an image of the current state
    """

    type: ClassVar[str] = "refine"
    has_image: ClassVar[bool] = True

    id: str = _field(_ID)
    refiner: str = _field(_text(128, 1, printable=True))
    width: int = _field(_integer(*_SIDE))
    height: int = _field(_integer(*_SIDE))
    encoding: str = _field(_choice(ENCODINGS))
    reply_encoding: str = _field(_choice(ENCODINGS), "png")
    steps: int | None = _field(_integer(1, 10_000), None)
    sampler: str | None = _field(_text(32, 1, printable=True), None)
    seed: int = _field(_integer(0, (1 << 63) - 1), 0)
    snr_db: float | None = _field(_number(-100, 100), None)
    prompt: str | None = _field(_text(2000), None)
    deadline: float = _field(_number(*_SECONDS), 60.0)
    progress: bool = _field(_boolean(), False)
    preview: bool = _field(_boolean(), False)
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_image(self.width, self.height, self.encoding, len(self.image))


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """Client to server: cancel a request.

    One that waits or runs ends with error "cancelled". For one that has been answered nothing is sent. For any other id the
    answer is error "unknown-id".
    """

    type: ClassVar[str] = "cancel"
    id: str = _field(_ID)


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """Client to server: answer with `Pong`."""

    type: ClassVar[str] = "ping"


@dataclass(frozen=True, kw_only=True)
class Accepted(Message):
    """Server to client: the request is queued, or has been queued before."""

    type: ClassVar[str] = "accepted"
    id: str = _field(_ID)


@dataclass(frozen=True, kw_only=True)
class Progress(Message):
    """Server to client: ``step`` of ``steps`` is done. With a preview: its size, encoding and image."""

    type: ClassVar[str] = "progress"
    has_image: ClassVar[bool] = True

    id: str = _field(_ID)
    step: int = _field(_integer(1, 10_000))
    steps: int = _field(_integer(1, 10_000))
    width: int | None = _field(_integer(*_SIDE), None)
    height: int | None = _field(_integer(*_SIDE), None)
    encoding: str | None = _field(_choice(ENCODINGS), None)
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        preview = self.width, self.height, self.encoding
        if self.width is not None and self.height is not None and self.encoding is not None:
            check_image(self.width, self.height, self.encoding, len(self.image))
        elif any(value is not None for value in preview) or len(self.image):
            raise _bad("progress has part of a preview: expected width, height, encoding and an image, or none of them")


@dataclass(frozen=True, kw_only=True)
class Result(Message):
    """Server to client: the refined image, and the seconds from the receipt of the request until it was encoded."""

    type: ClassVar[str] = "result"
    has_image: ClassVar[bool] = True

    id: str = _field(_ID)
    width: int = _field(_integer(*_SIDE))
    height: int = _field(_integer(*_SIDE))
    encoding: str = _field(_choice(ENCODINGS))
    seconds: float = _field(_number(*_SECONDS))
    image: bytes | memoryview = field(default=b"", repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_image(self.width, self.height, self.encoding, len(self.image))


@dataclass(frozen=True, kw_only=True)
class Error(Message):
    """Server to client: the request, or the message, failed. ``id`` is nil where the message had no valid one."""

    type: ClassVar[str] = "error"
    id: str | None = _field(_ID, None)
    code: str = _field(_text(32, 1, printable=True))
    message: str = _field(_text(1000, printable=True))
    retryable: bool = _field(_boolean())


@dataclass(frozen=True, kw_only=True)
class Busy(Message):
    """Server to client: the queue is full; try again in ``retry_after`` seconds."""

    type: ClassVar[str] = "busy"
    id: str = _field(_ID)
    message: str = _field(_text(1000, printable=True))
    retry_after: float = _field(_number(0, 3600))


@dataclass(frozen=True, kw_only=True)
class Pong(Message):
    """Server to client: version of the software, a random name of this run of the server, its refiners and its load."""

    type: ClassVar[str] = "pong"
    version: str = _field(_text(64, printable=True))
    instance: str = _field(_text(64, 1, printable=True))
    refiners: tuple[str, ...] = _field(_names())
    queued: int = _field(_integer(0, 1 << 31))
    running: int = _field(_integer(0, 1 << 31))


MESSAGES: dict[str, type[Message]] = {
    cls.type: cls for cls in (Request, Cancel, Ping, Accepted, Progress, Result, Error, Busy, Pong)
}


def check_image(width: int, height: int, encoding: str, size: int) -> None:
    """Raises Refusal unless an image of ``size`` bytes can be what its header declares."""
    raw = width * height * CHANNELS
    if raw > MAX_IMAGE:
        raise Refusal("too-large", f"image is declared {width}×{height}, {raw} bytes of pixels: at most {MAX_IMAGE} are accepted")
    if size > MAX_IMAGE:
        raise Refusal("too-large", f"image has {size} bytes: at most {MAX_IMAGE} are accepted")
    if encoding == "raw" and size != raw:
        raise Refusal("bad-image", f"raw image of {width}×{height} has {size} bytes: expected {raw}")
    if size == 0:
        raise Refusal("bad-image", "image is empty: expected it in the third frame")


def encode(message: Message) -> Frames:
    """The frames of a message."""
    header = {"type": message.type}
    for spec in fields(message):
        value = getattr(message, spec.name)
        if spec.name != "image" and not (spec.default is None and value is None):
            header[spec.name] = value
    image = getattr(message, "image", b"")
    return [VERSION, msgpack.packb(header), *([image] if len(image) else [])]


def decode(frames: Sequence[bytes | memoryview]) -> Message:
    """The message in frames. Raises Refusal that says what is wrong, with the message's ``id`` where that is valid."""
    header: dict = {}
    try:
        header = _header(frames)
        return _message(header, frames)
    except Refusal as error:
        error.id = _ID[0](header.get("id"))
        raise


def _header(frames: Sequence[bytes | memoryview]) -> dict:
    if not frames or bytes(frames[0][:64]) != VERSION:
        shown = _shown(bytes(frames[0][:64])) if frames else "nothing"
        raise Refusal("version", f"first frame is {shown}: this end speaks {VERSION.decode()}")
    if not 2 <= len(frames) <= MAX_FRAMES:
        raise _bad(f"message has {len(frames)} frames: expected version, header and, where there is one, image")
    if len(frames[1]) > MAX_HEADER:
        raise Refusal("too-large", f"header has {len(frames[1])} bytes: at most {MAX_HEADER} are accepted")
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
    arguments: dict[str, Any] = {name: value for name, value in header.items() if name != "type"}
    if len(frames) == 3:
        arguments["image"] = frames[2]
    return cls(**arguments)
