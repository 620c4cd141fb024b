# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clients may connect: a ZAP authenticator (ZeroMQ RFC 27) for CURVE keys."""

from __future__ import annotations

import os
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from .keys import PUBLIC, load_public


class Authenticator:
    """Admits the clients whose public key lies in a folder.

    The folder is read again for each new connection: a key that is added or removed counts from the next connection on.
    Raises ValueError where there is no such folder.
    """

    def __init__(self, context: zmq.Context, clients: str | os.PathLike):
        self._clients = Path(clients)
        if not self._clients.is_dir():
            raise ValueError(f"{clients}: no such folder: put the public keys of allowed clients into one")
        self._thread = ThreadAuthenticator(context)
        self._thread.start()
        self._thread.configure_curve_callback(domain="*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the client with this public key, Z85, may connect. Called by pyzmq's authenticator thread."""
        for file in self._clients.glob(f"*{PUBLIC}"):
            try:
                if load_public(file) == key:
                    return True
            except ValueError:
                continue
        return False

    def close(self) -> None:
        self._thread.stop()
