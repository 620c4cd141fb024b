# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a server works: for supervisors (/livez), load balancers (/readyz) and systemd. Any thread may ask."""

from __future__ import annotations

import os
import socket
import threading
import time
from enum import Enum

#: Seconds without a turn of the server's loop after which it counts as hung.
LOOP_SECONDS = 10.0


class Phase(Enum):
    """What a server is doing."""

    LOADING = "loading refiners"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class Health:
    """The state of a server, set by its thread.

    phase    where it is between start and end
    trouble  why no image is being computed though it serves; "" where all is well
    failure  why the process is about to end; "" where it is not
    """

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self.trouble = self.failure = ""
        self._turn = time.monotonic()

    def turn(self) -> None:
        """The server's loop has come round."""
        self._turn = time.monotonic()

    def live(self) -> str:
        """Why the process should be restarted; "" where it should not."""
        hung = time.monotonic() - self._turn
        if hung > LOOP_SECONDS:
            return f"the server's loop has been hung for {hung:.0f} s"
        return self.failure

    def ready(self) -> str:
        """Why requests should go elsewhere for now; "" where they are welcome."""
        if self.phase is not Phase.SERVING:
            return self.phase.value
        return self.live() or self.trouble


class Supervisor:
    """Messages to systemd (sd_notify), where it started this process with Type=notify; else it does nothing.

    The server's thread calls it; `beat` tells systemd's watchdog that all is well.
    """

    def __init__(self, health: Health):
        self._health = health
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "0")
        # systemd kills the process when it hears nothing for the whole time.
        self._interval = int(microseconds) / 2e6 if microseconds.isdecimal() else 0.0
        self._beat = 0.0
        self._lock = threading.Lock()

    def tell(self, **state: str) -> None:
        """Sends variables such as READY="1"."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name}={value}" for name, value in state.items())
        try:
            with self._lock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.sendto(text.encode(), address)
        except OSError:
            # A supervisor that does not listen is no reason to stop.
            self._address = ""

    def beat(self) -> None:
        """To be called often; sends as often as systemd asked for, unless the server should be restarted."""
        now = time.monotonic()
        if self._interval and now - self._beat >= self._interval and not self._health.live():
            self._beat = now
            self.tell(WATCHDOG="1")
