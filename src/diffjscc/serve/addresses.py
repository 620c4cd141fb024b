# SPDX-License-Identifier: GPL-3.0-or-later
"""ZeroMQ addresses: which are any, and which only this machine can reach."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def check_port(address: str) -> None:
    """Raises ValueError for a TCP port above 65535, of which libzmq would silently use another."""
    port = address.rpartition(":")[2]
    if address.startswith("tcp://") and port.isdecimal() and int(port) > 65535:
        raise ValueError(f"{address}: port {port} does not exist: choose one up to 65535")


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address."""
    parts = urlsplit(address)
    if parts.scheme in ("ipc", "inproc"):
        return True
    host = parts.netloc.rpartition(":")[0].strip("[]")
    return parts.scheme == "tcp" and is_loopback(host)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # An interface or a name could be anything; * is everything.
        return False
