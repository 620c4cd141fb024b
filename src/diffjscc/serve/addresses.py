# SPDX-License-Identifier: GPL-3.0-or-later
"""ZeroMQ addresses: which are any, and which only this machine can reach."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

#: Where a server listens, and a client looks for it, unless told otherwise.
DEFAULT = "tcp://127.0.0.1:5555"


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


def check_exposure(bind: str, status: tuple[str, int] | None, server_keys, clients, insecure: bool) -> None:
    """Raises ValueError where a server would be open to other machines, unless it has keys or is to be ``insecure``."""
    check_port(bind)
    if (server_keys is None) != (clients is None) and not insecure:
        raise ValueError("keys of the server and of its clients go together: give both folders, or neither")
    if insecure:
        return
    if server_keys is None and not is_local(bind):
        raise ValueError(
            f"{bind} can be reached from other machines: give keys (see `diffjscc serve keygen --help`), or --insecure"
        )
    if status is not None and not is_loopback(status[0]):
        raise ValueError(
            f"the status page on {status[0]} could be seen from other machines: bind it to 127.0.0.1, or be --insecure"
        )
