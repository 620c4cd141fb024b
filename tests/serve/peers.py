# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that sends exactly the frames that a test wants, right or wrong."""

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

    def receive(self, timeout=10.0):
        """The next message; None where there is none in time."""
        return decode([frame.buffer for frame in self.socket.recv_multipart(copy=False)]) if self.has_message(timeout) else None

    def has_message(self, timeout):
        return bool(self.socket.poll(1000 * timeout))

    def receive_all(self, count, timeout=10.0):
        return [self.receive(timeout) for _ in range(count)]

    def receive_until(self, is_last, timeout=20.0):
        """The messages up to the first one for which ``is_last(message, all up to it)`` holds."""
        messages = []
        while not messages or not is_last(messages[-1], messages):
            message = self.receive(timeout)
            assert message is not None, f"no further message after {messages}"
            messages.append(message)
        return messages

    def receive_finals(self, count):
        """The messages until ``count`` requests have had their final reply: a result, an error or busy."""
        final = ("result", "error", "busy")
        return self.receive_until(lambda _, messages: sum(message.type in final for message in messages) == count)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()
