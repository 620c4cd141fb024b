# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that sends exactly the frames that a test wants, right or wrong; and a network that fails when it is told to."""

import socket
import struct
import threading
from contextlib import suppress

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

    def ping(self):
        self.send(VERSION, msgpack.packb({"type": "ping"}))

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


class Relay:
    """A TCP relay that can break its connections, as a network does that is not the server's fault."""

    def __init__(self, address):
        self._target = address.removeprefix("tcp://").split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = []
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self._target[0], int(self._target[1])))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, target):
        try:
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
        except OSError:
            pass

    def hold(self):
        """Keeps what is sent from now on, as a slow network does."""
        self._flows.clear()

    def release(self):
        self._flows.set()

    def cut(self):
        while self._ends:
            end = self._ends.pop()
            # Sends a reset, and whatever was on its way is lost.
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listener.close()
        self.cut()


class RawPeer:
    """A TCP connection that has completed ZeroMQ's handshake without keys, as a DEALER: for frames that libzmq would not send."""

    def __init__(self, address):
        host, port = address.removeprefix("tcp://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(60)
        self.socket.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31))
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        self.socket.sendall(b"\x04" + bytes([len(ready)]) + ready)
        # The server's greeting, and its READY: before it, no message may be sent.
        received = b""
        while len(received) < 66 or len(received) < 66 + received[65]:
            received += self.socket.recv(1 << 16)

    @property
    def is_ended(self):
        """Whether the server has ended the connection; reads what it has sent."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(60)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()
