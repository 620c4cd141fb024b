# SPDX-License-Identifier: GPL-3.0-or-later
"""ZeroMQ addresses: which are valid, and which only this machine can reach."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

#: The default address of servers and clients.
DEFAULT = "tcp://127.0.0.1:5555"


def check_port(address: str) -> None:
    """Raises ValueError for a TCP port above 65535, instead of which libzmq would silently use another one."""
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
    """Whether a host name or IP address stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # The name of an interface or host could stand for any address; * stands for all.
        return False


def check_exposure(
    bind: str,
    status: tuple[str, int] | None,
    server_keys: str | os.PathLike | None,
    clients: str | os.PathLike | None,
    insecure: bool,
) -> None:
    """Raises ValueError where other machines could reach a server without keys or its status page, unless ``insecure``."""
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
