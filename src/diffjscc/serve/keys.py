# SPDX-License-Identifier: GPL-3.0-or-later
"""CURVE keys in files, in pyzmq's format.

NAME.key holds the public key and may be copied anywhere; NAME.key_secret holds both keys and stays on its machine.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

import zmq
import zmq.auth

from ..errors import one_line

#: Name of the server's key pair in its folder of keys.
SERVER = "server"

#: Suffixes of the files with the public key, and with both.
PUBLIC, SECRET = ".key", ".key_secret"

#: Bits of a file's mode that a secret key must not have: writable by its group, or accessible to others.
EXPOSED = 0o027


def generate(folder: str | os.PathLike, name: str = SERVER) -> tuple[Path, Path]:
    """Writes a new key pair; returns its files (public, secret). Only the owner can read the secret one.

    Raises ValueError where one of the files exists, or for a name that is not a plain file name.
    """
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
    # In a private folder, so that nobody else can read the secret key before its mode is set.
    with tempfile.TemporaryDirectory(dir=folder) as private:
        written = zmq.auth.create_certificates(private, name)
        for source, target, mode in zip(written, files, (0o644, 0o600)):
            os.chmod(source, mode)
            os.replace(source, target)
    return files


def load_public(path: str | os.PathLike) -> bytes:
    """The public key, Z85, in a file of either kind. Raises ValueError where there is none."""
    return _load(path)[0]


def load_pair(path: str | os.PathLike) -> tuple[bytes, bytes]:
    """(public, secret) key, Z85, in a NAME.key_secret file.

    Raises ValueError where it does not hold both, and where others than its owner and group can access it.
    """
    public, secret = _load(path)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & EXPOSED:
        raise ValueError(f"{path}: mode {mode:04o} lets others read or change a secret key: chmod 600 {path}, or make a new one")
    if secret is None or len(secret) != 40:
        raise ValueError(f"{path}: holds no secret key: give the {SECRET} file")
    return public, secret


def _load(path: str | os.PathLike) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no key file ({one_line(error)}): make one with `diffjscc serve keygen`") from None
    if len(public) != 40:
        raise ValueError(f"{path}: public key has {len(public)} characters: expected 40")
    return public, secret
