# SPDX-License-Identifier: GPL-3.0-or-later
"""The TCP connections below a ROUTER socket: how much each has sent without completing a message, and how to end one.

libzmq hands a message over once all of its frames have arrived, and bounds neither their number nor their sum. The kernel knows
how many bytes a connection has received, and libzmq says which descriptor a message came from.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from contextlib import closing, suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from .logs import Limited
from .protocol import MAX_FRAME, MAX_HEADER

logger = logging.getLogger(__name__)

#: Bytes that a connection may send without completing a message: the longest message, and what the system buffers.
MAX_INCOMPLETE = MAX_FRAME + MAX_HEADER + (8 << 20)

#: Seconds between checks.
CHECK_SECONDS = 0.05

#: Where struct tcp_info (linux/tcp.h) has tcpi_bytes_received.
BYTES_RECEIVED = 128


class Connections:
    """Watches the connections of a socket that is bound to TCP; other transports have nothing to watch."""

    def __init__(self, router: zmq.Socket):
        self._router = router
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        # By descriptor: bytes received about when the latest message was taken from it.
        self._marks: dict[int, int] = {}
        self._completed: set[int] = set()
        self._checked = 0.0
        self._log = Limited(logger)

    def __len__(self) -> int:
        return len(self._marks)

    def _follow(self) -> None:
        """Takes note of the connections that came and went."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._marks[event["value"]] = 0
            else:
                self._marks.pop(event["value"], None)

    def completed(self, descriptor: int) -> None:
        """A message of this connection was complete."""
        self._completed.add(descriptor)

    def check(self) -> None:
        """Ends the connections that have sent too much without completing a message.

        To be called when all messages that are complete have been taken.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        self._follow()
        for descriptor, mark in list(self._marks.items()):
            received = _received(descriptor)
            if descriptor in self._completed:
                # What arrived meanwhile of the next message does not count; it is a small part.
                self._marks[descriptor] = mark = received
            incomplete = received - mark
            if incomplete > MAX_INCOMPLETE:
                self._log.warning("incomplete", "a connection sent %d MB without completing a message: ended", incomplete // 10**6)
                self.end(descriptor)
        self._completed.clear()

    def end(self, descriptor: int, inode: int | None = None) -> None:
        """Ends a connection, unless its descriptor belongs to another one by now."""
        with suppress(OSError):
            if inode is None or os.fstat(descriptor).st_ino == inode:
                # The descriptor itself is libzmq's.
                with closing(socket.socket(fileno=os.dup(descriptor))) as connection:
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._router.disable_monitor()
        self._monitor.close()


def inode_of(descriptor: int) -> int | None:
    """Identifies the socket behind a descriptor, whose number may be given to another one later."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None


def _received(descriptor: int) -> int:
    """Bytes that a TCP connection has received; 0 for other descriptors."""
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    except OSError:
        return 0
    try:
        information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return struct.unpack_from("=Q", information, BYTES_RECEIVED)[0]
    except (OSError, struct.error):
        return 0
    finally:
        # The descriptor is libzmq's, and stays open.
        connection.detach()
