# SPDX-License-Identifier: GPL-3.0-or-later
"""The ZAP handler (ZeroMQ RFC 27): decides which connections are accepted, and under which routing id.

Each connection gets a routing id of the server's own. libzmq would otherwise take the one that the client names, and number the
others from a known start: a client that names an id which libzmq is about to give to another connection makes libzmq abort the
process. Properties that a ZAP handler returns override those of the handshake, as long as the reply comes after the client's
part of it. It does with CURVE, where the client's part is complete before the handler is asked. Without keys a client can be
late on purpose; `seed` then makes the number unknown, and the handler admits only so many connections a second.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import zmq
import zmq.utils.z85

from .allowed import AllowedClients
from .logs import Limited

logger = logging.getLogger(__name__)

#: Where libzmq asks, by its protocol.
ENDPOINT = "inproc://zeromq.zap.01"

#: First byte of the routing ids given here. Those of libzmq begin with zero.
OWN_ID = b"\x01"

#: Seconds before a client without keys is admitted, so that its part of the handshake has arrived.
DELAY = 0.02

#: Connections without keys from one address that are admitted at once, and per second afterwards; further ones wait.
BURST, PER_SECOND = 256, 32


def seed() -> None:
    """Makes the routing ids that libzmq gives start at an unknown number. To be called before the socket is made."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4), "little"))


def age_of(peer: bytes) -> int:
    """Grows with the time at which the connection of a routing id was accepted."""
    return int.from_bytes(peer[1:9], "big") if peer[:1] == OWN_ID else 0


class Authenticator:
    """Answers libzmq's question about each new connection, in a thread of its own.

    allowed   clients that may connect; None: everybody, without keys
    refused   called for each connection that is refused, in the handler's thread
    """

    def __init__(self, context: zmq.Context, allowed: AllowedClients | None, refused: Callable[[], object]):
        self._allowed, self._refused = allowed, refused
        self._numbers = itertools.count(1)
        self._log = Limited(logger)
        # Replies that wait: (when, number, envelope, reply).
        self._waiting: list[tuple[float, int, list[bytes], list[bytes]]] = []
        self._admitted: dict[str, tuple[float, float]] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="diffjscc-authenticator")
        self._thread.start()

    def close(self) -> None:
        """To be called before the context is terminated."""
        self._closing.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else 0.1
                if self._socket.poll(max(0, min(100, int(1000 * wait) + 1))):
                    self._receive(self._socket.recv_multipart())
                while self._waiting and self._waiting[0][0] <= time.monotonic():
                    _, _, envelope, reply = heapq.heappop(self._waiting)
                    self._socket.send_multipart([*envelope, *reply])
        except zmq.ZMQError:
            if not self._closing.is_set():
                logger.exception("the authenticator failed: no further client can connect")
        finally:
            self._socket.close()

    def _receive(self, frames: list[bytes]) -> None:
        # The routing id of libzmq's own socket and an empty frame; then RFC 27's request.
        split = frames.index(b"") + 1
        envelope, (version, number, _, address, _, mechanism, *credentials) = frames[:split], frames[split:]
        where = address.decode(errors="replace")
        due = time.monotonic()
        if self._allowed is None:
            user = ""
            due += DELAY + self._throttle(where)
        else:
            user = zmq.utils.z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
            name = self._allowed.name_of(user, fresh=True)
            if name is None:
                self._refused()
                self._log.warning(
                    where, "connection from %s refused: key %s is not among the allowed clients'", where, user or "none"
                )
                heapq.heappush(
                    self._waiting, (due, next(self._numbers), envelope, [version, number, b"400", b"not allowed", b"", b""])
                )
                return
            self._log.info(f"{name} {where}", "client %s connects from %s", name, where, client=name, address=where)
        order = next(self._numbers)
        routing_id = OWN_ID + struct.pack(">Q", order) + os.urandom(8)
        reply = [version, number, b"200", b"OK", user.encode(), _property(b"Identity", routing_id)]
        heapq.heappush(self._waiting, (due, order, envelope, reply))

    def _throttle(self, address: str) -> float:
        """Seconds that a connection from an address has to wait: a token bucket for each."""
        now = time.monotonic()
        tokens, since = self._admitted.get(address, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - since) * PER_SECOND) - 1.0
        if len(self._admitted) > 10_000:
            self._admitted.clear()
        self._admitted[address] = (tokens, now)
        return max(0.0, -tokens / PER_SECOND)


def _property(name: bytes, value: bytes) -> bytes:
    """Metadata as in ZMTP's handshake."""
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
