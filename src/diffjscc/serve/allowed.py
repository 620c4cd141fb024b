# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of the clients that may connect: a public key in each file, and the file's name is the client's."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from ..errors import one_line
from .keys import PUBLIC, load_public

logger = logging.getLogger(__name__)

#: Seconds after which the folder is read again.
REFRESH_SECONDS = 1.0


class AllowedClients:
    """Names of clients by public key (Z85), as the folder holds them; at most a second old. Any thread may ask.

    Raises ValueError where there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise ValueError(f"{folder}: no such folder: put the public keys of allowed clients into one")
        self._lock = threading.Lock()
        self._files: dict[Path, tuple[float, int, str | None]] = {}
        self._names: dict[str, str] = {}
        self._read_at = float("-inf")
        self.refresh()

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, key: str, fresh: bool = False) -> str | None:
        """The name of the client with this key; None where it may not connect. ``fresh``: as the folder is now."""
        if fresh or time.monotonic() - self._read_at > REFRESH_SECONDS:
            self.refresh()
        return self._names.get(key)

    def refresh(self) -> None:
        """Reads the files that are new or changed. A folder that cannot be read allows nobody."""
        with self._lock:
            self._read_at = time.monotonic()
            files: dict[Path, tuple[float, int, str | None]] = {}
            try:
                for file in self._folder.glob(f"*{PUBLIC}"):
                    stat = file.stat()
                    seen = self._files.get(file)
                    if seen is None or seen[:2] != (stat.st_mtime, stat.st_size):
                        seen = (stat.st_mtime, stat.st_size, self._key_in(file))
                    files[file] = seen
            except OSError as error:
                logger.warning("%s cannot be read, no client may connect: %s", self._folder, one_line(error))
                files = {}
            self._files = files
            self._names = {key: file.name.removesuffix(PUBLIC) for file, (_, _, key) in files.items() if key is not None}

    @staticmethod
    def _key_in(file: Path) -> str | None:
        try:
            return load_public(file).decode()
        except ValueError as error:
            logger.warning("not a client's key: %s", one_line(error))
            return None
