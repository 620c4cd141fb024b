# SPDX-License-Identifier: GPL-3.0-or-later
"""A client's connection to a server: a ZeroMQ socket that is opened again when it fails, and what is known about the other end."""

from __future__ import annotations

import logging
import math
import time
from enum import Enum

import zmq
from zmq.utils.monitor import recv_monitor_message

from .addresses import is_ipv6
from .protocol import MAX_FRAME, Message, encode

logger = logging.getLogger(__name__)

#: Seconds between pings while a reply is outstanding; and seconds without any message after which the connection is given up.
PING_SECONDS, SILENCE_SECONDS = 1.0, 6.0

#: Bytes per second of the slowest network that is supported: an image that is being sent delays the pong by its size over this.
SLOWEST = 50_000

#: Back-off between attempts to connect, s: the first, and the longest. libzmq doubles it in between.
RECONNECT_SECONDS = (0.1, 5.0)

#: Messages that libzmq queues for a server that reads slowly; the others wait in the client.
SEND_QUEUE = 16

FAILED_HANDSHAKES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Pulse:
    """Whether the other end is silent. It is only while it owes an answer: an idle connection says nothing. Told the time."""

    def __init__(self) -> None:
        self._asked, self._pinged = math.inf, -math.inf

    def asked(self, now: float) -> None:
        """Something was sent that is answered."""
        self._asked = min(self._asked, now)

    def heard(self) -> None:
        """Something was received."""
        self._asked = math.inf

    def pinged(self, now: float) -> None:
        self._pinged = now
        self.asked(now)

    def ping_now(self) -> None:
        """The next ping is due at once."""
        self._pinged = -math.inf

    def next_ping(self) -> float:
        """When it is due."""
        return self._pinged + PING_SECONDS

    def silent_for(self, now: float) -> float:
        """Seconds since the first question that has not been followed by any message."""
        return max(0.0, now - self._asked)


class Change(Enum):
    """What became of a connection."""

    UP = "up"
    LOST = "lost, or still not there"


class Connection:
    """A DEALER socket. Only one thread uses it, but any may read ``away_since`` and ``trouble``.

    address     of the server
    curve       (server's public, own public, own secret key), or None
    away_since  when the connection was lost, or made; None while it is up
    trouble     why it is not up, one line

    Raises ValueError where the address makes no sense. Later errors of the socket are failures of the connection: it is opened
    again after a back-off.
    """

    def __init__(self, address: str, curve: tuple[bytes, bytes, bytes] | None):
        self.address, self._curve = address, curve
        self.away_since: float | None = time.monotonic()
        self.trouble = f"{address} does not answer"
        self.pulse = Pulse()
        self._context: zmq.Context = zmq.Context.instance()
        self._socket: zmq.Socket | None = None
        self._monitor: zmq.Socket | None = None
        self._back_off = RECONNECT_SECONDS[0]
        self._reopen_at = math.inf
        #: Whether an attempt to connect has failed, or the connection was lost, since it was last up.
        self.has_failed = False
        # Whether it was up before the present trouble, and whether the present socket was refused.
        self._was_up = self._refused = False
        try:
            self._open()
        except zmq.ZMQError as error:
            raise ValueError(f"cannot connect to {address!r} ({error}): expected an address such as tcp://host:5555") from None

    @property
    def is_up(self) -> bool:
        return self.away_since is None

    def _open(self) -> None:
        """Opens a socket. libzmq connects, and connects again after failures, by itself."""
        self._reopen_at, self._refused = math.inf, False
        self._socket = socket = self._context.socket(zmq.DEALER)
        try:
            socket.linger = 0
            # libzmq queues nothing while there is no connection; the client sends unfinished requests when there is one.
            socket.immediate = True
            socket.sndhwm = SEND_QUEUE
            socket.maxmsgsize = MAX_FRAME
            socket.ipv6 = is_ipv6(self.address)
            socket.reconnect_ivl, socket.reconnect_ivl_max = (int(1000 * seconds) for seconds in RECONNECT_SECONDS)
            socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
            if self._curve is not None:
                socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = self._curve
            self._monitor = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | FAILED_HANDSHAKES
            )
            socket.connect(self.address)
        except zmq.ZMQError:
            self.close()
            raise

    def close(self) -> None:
        self._note_loss()
        if self._socket is not None:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close()
            self._socket.close()
        self._socket = self._monitor = None

    def reopen(self) -> None:
        """Opens a new socket; where that fails, another one later."""
        self.close()
        try:
            self._open()
        except zmq.ZMQError as error:
            self.trouble = f"cannot connect to {self.address}: {error}"
            self._reopen_later()

    def reopen_if_due(self, now: float) -> None:
        if now >= self._reopen_at:
            self.reopen()

    def _reopen_later(self) -> None:
        self._reopen_at = time.monotonic() + self._back_off
        self._back_off = min(2 * self._back_off, RECONNECT_SECONDS[1])

    def _note_loss(self) -> None:
        if self.away_since is None:
            self.away_since = time.monotonic()

    def fail(self, reason: str) -> None:
        """The connection does not work: it is opened again at once."""
        self._note_loss()
        self.trouble, self.has_failed = reason, True
        self._reopen_at = 0.0

    def wait(self, wake: int, until_writable: bool, seconds: float) -> None:
        """Waits for a message, a change of the connection, the descriptor ``wake``, or ``seconds``."""
        poller = zmq.Poller()
        poller.register(wake, zmq.POLLIN)
        if self._socket is not None and self._monitor is not None:
            poller.register(self._monitor, zmq.POLLIN)
            poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if until_writable else 0))
        seconds = min(seconds, self._reopen_at - time.monotonic())
        poller.poll(math.ceil(1000 * max(0.0, seconds)))

    def changes(self) -> list[Change]:
        """What has become of the connection since the last call."""
        found: list[Change] = []
        while self._monitor is not None and self._monitor.poll(0):
            kind = recv_monitor_message(self._monitor)["event"]
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.away_since, self._was_up, self._back_off = None, True, RECONNECT_SECONDS[0]
                self.pulse, self.has_failed = Pulse(), False
                found.append(Change.UP)
            elif kind & FAILED_HANDSHAKES:
                self._note_loss()
                self._was_up, self._refused = False, True
                self.trouble = f"{self.address} refuses this client, or is not the server of this key: check the keys"
                # libzmq does not try again after a failed handshake.
                self._reopen_later()
                found.append(Change.LOST)
                self.has_failed = True
            elif kind == zmq.EVENT_DISCONNECTED:
                # This event follows a failed handshake too, whose message is the better one.
                if self.is_up:
                    self._note_loss()
                    self.trouble = f"the connection to {self.address} was lost"
                    found.append(Change.LOST)
                    self.has_failed = True
            elif not self.is_up and not self._refused:
                if not self._was_up:
                    self.trouble = f"{self.address} cannot be reached"
                found.append(Change.LOST)
                self.has_failed = True
        return found

    def send(self, message: Message, now: float) -> bool:
        """False where the socket's queue is full, or the connection is not up."""
        if self._socket is None or not self.is_up:
            return False
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self.pulse.asked(now)
        return True

    def receive(self) -> list[memoryview] | None:
        """The frames of the next message; None where there is none."""
        if self._socket is None:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        self.pulse.heard()
        return [frame.buffer for frame in frames]

    def is_silent(self, now: float, being_sent: int) -> bool:
        """Whether the server has been silent for too long, while ``being_sent`` bytes of images were on their way."""
        return self.is_up and self.pulse.silent_for(now) > SILENCE_SECONDS + being_sent / SLOWEST
