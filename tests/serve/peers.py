# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that says exactly what a test wants said, right or wrong."""

import msgpack
import zmq
from serve.processes import image

from diffjscc.serve.protocol import VERSION, decode


def header(id="a", **changes):
    """The MessagePack header of a good request for `image`; None takes a field out."""
    fields = {"type": "refine", "id": id, "refiner": "stub", "width": 48, "height": 32, "encoding": "raw"} | changes
    return msgpack.packb({name: value for name, value in fields.items() if value is not None})


class Peer:
    """A bare DEALER."""

    def __init__(self, address, **options):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(address)

    def send(self, *frames):
        self.socket.send_multipart(frames)

    def ask(self, id="a", pixels=None, **changes):
        """Sends a request for a small image."""
        self.send(VERSION, header(id, **changes), (image() if pixels is None else pixels).tobytes())

    def cancel(self, id="a"):
        self.send(VERSION, msgpack.packb({"type": "cancel", "id": id}))

    def hear(self, timeout=10.0):
        """The next message; none if there is none in time."""
        return decode([frame.buffer for frame in self.socket.recv_multipart(copy=False)]) if self.hears(timeout) else None

    def hears(self, timeout):
        return bool(self.socket.poll(1000 * timeout))

    def hear_all(self, count, timeout=10.0):
        return [self.hear(timeout) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()
