# SPDX-License-Identifier: GPL-3.0-or-later
"""CURVE keys: files of them, and who may connect.

NAME.key is public and may be copied anywhere; NAME.key_secret holds both halves and stays where it is. The format is pyzmq's.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

#: The pair of a server, in its folder of keys.
SERVER = "server"

PUBLIC, SECRET = ".key", ".key_secret"


def generate(folder: str | os.PathLike, name: str = SERVER) -> tuple[Path, Path]:
    """Writes a new pair: the files (public, secret), the secret one for its owner alone. Raises ValueError where one exists."""
    if not zmq.has("curve"):
        raise ValueError("this libzmq was built without CURVE: install pyzmq from PyPI")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("."):
        raise ValueError(f"key name '{name}': use at most 64 letters, digits, dots, - and _")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{name}{PUBLIC}", folder / f"{name}{SECRET}"
    for file in files:
        if file.exists():
            raise ValueError(f"{file} exists: keys are never overwritten; choose another name")
    # A folder that is nobody else's until the mode is right.
    with tempfile.TemporaryDirectory(dir=folder) as private:
        written = zmq.auth.create_certificates(private, name)
        for source, target, mode in zip(written, files, (0o644, 0o600)):
            os.chmod(source, mode)
            os.replace(source, target)
    return files


def load_public(path: str | os.PathLike) -> bytes:
    """The public key in a file of either kind. Raises ValueError where there is none."""
    return _load(path)[0]


def load_pair(path: str | os.PathLike) -> tuple[bytes, bytes]:
    """(public, secret) key in a NAME.key_secret. Raises ValueError where they are not there."""
    public, secret = _load(path)
    if secret is None or len(secret) != 40:
        raise ValueError(f"{path}: holds no secret key: give the {SECRET} file")
    return public, secret


def _load(path: str | os.PathLike) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no key file ({error}): make one with `diffjscc serve keygen`") from None
    if len(public) != 40:
        raise ValueError(f"{path}: public key has {len(public)} characters: expected 40")
    return public, secret


class Doorkeeper:
    """Lets in the clients whose public key lies in a folder, looked up anew for each that connects.

    So a key that is put there, or taken away, counts from the next connection on, without a restart.
    """

    def __init__(self, context: zmq.Context, clients: str | os.PathLike):
        self._clients = Path(clients)
        if not self._clients.is_dir():
            raise ValueError(f"{clients}: no such folder: put the public keys of allowed clients into one")
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a public key, Z85, may enter; the authenticator asks."""
        for file in self._clients.glob(f"*{PUBLIC}"):
            try:
                if load_public(file) == key:
                    return True
            except ValueError:
                continue
        return False

    def close(self) -> None:
        self._authenticator.stop()
