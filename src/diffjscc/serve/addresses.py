# SPDX-License-Identifier: GPL-3.0-or-later
"""ZeroMQ addresses: which are valid, and which only this machine can reach."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

#: The default address of servers and clients.
DEFAULT = "tcp://127.0.0.1:5555"

#: Any free port that only this machine can reach.
ANY_LOCAL = "tcp://127.0.0.1:*"


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


def is_ipv6(address: str) -> bool:
    """Whether libzmq has to be told that a TCP address is of IPv6: it is written as one, or its name has no other."""
    host = urlsplit(address).netloc.rpartition(":")[0]
    if not address.startswith("tcp://") or host in ("", "*"):
        return False
    if ":" in host:
        return True
    try:
        return not any(family == socket.AF_INET for family, *_ in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def check_exposure(
    bind: str,
    status: tuple[str, int] | None,
    server_keys: str | os.PathLike | None,
    clients: str | os.PathLike | None,
    insecure: bool,
    public_status: bool,
) -> None:
    """Raises ValueError where other machines could reach a server without keys unless it is ``insecure``, or its status page
    unless that is a ``public_status``."""
    check_port(bind)
    if (server_keys is None) != (clients is None):
        raise ValueError("keys of the server and of its clients go together: give both folders, or neither")
    if insecure and server_keys is not None:
        raise ValueError("--insecure serves without keys, and keys are given: leave one of them out")
    if server_keys is None and not is_local(bind) and not insecure:
        raise ValueError(
            f"{bind} can be reached from other machines: give keys (see `diffjscc serve keygen --help`), or --insecure"
        )
    if status is not None and not is_loopback(status[0]) and not public_status:
        raise ValueError(
            f"the status page on {status[0]} could be seen from other machines: bind it to 127.0.0.1, or give --public-status"
        )
