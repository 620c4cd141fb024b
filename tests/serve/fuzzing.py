# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that are wrong in ways that a parser must survive: they know the protocol's structure and break it somewhere."""

import io
import struct
import zlib

import msgpack
import numpy as np
from PIL import Image

from diffjscc.serve.protocol import MESSAGES, VERSION

#: Values for any field: of every type, at and beyond every bound.
VALUES = (
    *(None, True, False, 0, 1, -1, 15, 16, 48, 255, 256, 65535, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)),
    *(0.0, -0.0, 1.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        "a",
        "stub",
        "other",
        "raw",
        "png",
        "jpeg",
        "x" * 64,
        "x" * 65,
        "x" * 2001,
        "a\nb",
        "\0",
        "\u202e",
        "😀",
        "../../etc/passwd",
    ),
    *([], [1], ["a"] * 300, {}, {"a": 1}, b"bytes", msgpack.ExtType(1, b"x")),
)


def small_file(rng, encoding):
    """A small valid file."""
    file = io.BytesIO()
    pixels = np.frombuffer(rng.randbytes(32 * 48 * 3), np.uint8).reshape(32, 48, 3)
    options = {"progressive": rng.random() < 0.5} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(file, encoding, **options)
    return file.getvalue()


class Fuzzer:
    """An endless source of messages; ``rng`` decides everything."""

    def __init__(self, rng):
        self._rng, self._number = rng, 0
        self._files = {encoding: [small_file(rng, encoding) for _ in range(4)] for encoding in ("png", "jpeg")}

    def message(self):
        """Frames: right, nearly right, or rubbish."""
        self._number += 1
        rng = self._rng
        make = rng.choices(
            (self._valid, self._fields, self._bytes, self._frames, self._image, self._nested, self._rubbish),
            (1, 6, 4, 2, 3, 1, 1),
        )[0]
        return [bytes(frame) for frame in make()] or [b""]

    def _header(self):
        rng = self._rng
        header = {"type": "refine", "id": f"f{self._number}", "refiner": "stub", "width": 48, "height": 32, "encoding": "raw"}
        optional = {"steps": 3, "sampler": "ddim", "seed": 100, "snr_db": 1.0, "prompt": "words", "deadline": 5.0, "progress": True}
        return header | {name: optional[name] for name in rng.sample(sorted(optional), rng.randrange(len(optional)))}

    def _valid(self):
        rng = self._rng
        kind = rng.randrange(6)
        if kind == 0:
            return [VERSION, msgpack.packb({"type": "ping"})]
        if kind == 1:
            return [VERSION, msgpack.packb({"type": "cancel", "id": f"f{self._number - rng.randrange(50)}"})]
        if kind == 2:
            # The same id again, with the same content or another.
            return [VERSION, msgpack.packb(self._header() | {"id": "again", "seed": rng.randrange(100, 102)}), bytes(48 * 32 * 3)]
        if kind == 3:
            encoding = rng.choice(("png", "jpeg"))
            return [VERSION, msgpack.packb(self._header() | {"encoding": encoding}), rng.choice(self._files[encoding])]
        return [VERSION, msgpack.packb(self._header()), bytes(48 * 32 * 3)]

    def _fields(self):
        """A header with other values, missing and unknown fields, for any type of message."""
        rng = self._rng
        header = self._header()
        for _ in range(rng.randint(1, 3)):
            kind = rng.randrange(4)
            if kind == 0:
                header.pop(rng.choice(list(header)), None)
            elif kind == 1:
                header[rng.choice(("colour", "", "Type", "image", "x" * 70))] = rng.choice(VALUES)
            elif kind == 2:
                header["type"] = rng.choice((*MESSAGES, *VALUES))
            if header and kind == 3:
                header[rng.choice(list(header))] = rng.choice(VALUES)
        try:
            packed = msgpack.packb(header)
        except (OverflowError, ValueError):
            packed = b"\x80"
        return [VERSION, packed, bytes(rng.choice((0, 1, 48 * 32 * 3 - 1, 48 * 32 * 3)))]

    def _bytes(self):
        """Bytes of the packed header changed, inserted and taken away."""
        rng = self._rng
        packed = bytearray(msgpack.packb(self._header()))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(packed) + 1)
            kind = rng.randrange(4)
            if kind == 0 and at < len(packed):
                packed[at] = rng.randrange(256)
            elif kind == 1:
                packed[at:at] = rng.randbytes(rng.randrange(8))
            elif kind == 2:
                del packed[at:]
            else:
                # Lengths of strings, arrays and maps that are not there.
                packed[at:at] = rng.choice((b"\xdb", b"\xdd", b"\xdf", b"\xc6")) + struct.pack(
                    ">I", rng.choice((5, 1 << 16, 1 << 31))
                )
        return [VERSION, packed, bytes(48 * 32 * 3)]

    def _frames(self):
        """Frames doubled, left out, in another order, or another version."""
        rng = self._rng
        frames = self._valid()
        for _ in range(rng.randint(1, 3)):
            kind = rng.randrange(5)
            if kind == 0:
                frames.insert(rng.randrange(len(frames) + 1), rng.choice((b"", b"x", VERSION, rng.randbytes(30))))
            elif kind == 1 and len(frames) > 1:
                frames.pop(rng.randrange(len(frames)))
            elif kind == 2:
                rng.shuffle(frames)
            elif kind == 3:
                frames[0] = rng.choice((b"diffjscc-refine/2", b"diffjscc-refine/", VERSION + b"\0", b"GET / HTTP/1.1", b""))
            else:
                frames += [b""] * rng.randrange(10)
        return frames

    def _image(self):
        """A file that is damaged, cut short, of another size or kind than declared, or says that it is huge."""
        rng = self._rng
        encoding = rng.choice(("png", "jpeg"))
        data = bytearray(rng.choice(self._files[encoding]))
        for _ in range(rng.randint(1, 4)):
            kind, at = rng.randrange(5), rng.randrange(len(data) + 1)
            if kind == 0 and at < len(data):
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = rng.randbytes(rng.randrange(20))
            elif kind == 3:
                data += data[at:]
            elif encoding == "png" and len(data) > 33:
                data[16:24] = struct.pack(">II", rng.choice((16, 48, 60_000)), rng.choice((16, 32, 60_000)))
                data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        declared = {"encoding": rng.choice((encoding, "png", "jpeg", "raw"))}
        return [VERSION, msgpack.packb(self._header() | declared), data]

    def _nested(self):
        """Containers in containers."""
        rng = self._rng
        depth = rng.choice((10, 500, 5000))
        return [VERSION, rng.choice((b"\x91", b"\x81\xa1a")) * depth + b"\x01"]

    def _rubbish(self):
        rng = self._rng
        return [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 6))]
