# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a sweep: a journal of finished rows, which loses at most the rows in work when the process is killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import one_line

SWEEP, JOURNAL, LOCK = "sweep.json", "journal.jsonl", "lock"
IMAGES, FEATURES = "images", "features"


class Journal:
    """Finished rows of one sweep, in ``folder``, one JSON line each, appended and synchronised as they finish.

    identity  what makes the sweep what it is; a folder with rows of another one is refused

    A line that was cut short by a kill or damaged is as if it had never been written. Received images and network features
    lie beside the journal in files of their own, which are complete before their row is appended.
    Raises ValueError where the folder holds another sweep, belongs to a running process, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        try:
            for path in (self.folder, self.folder / IMAGES, self.folder / FEATURES):
                path.mkdir(parents=True, exist_ok=True)
            # Held until the process ends, however it ends.
            self._lock = open(self.folder / LOCK, "w")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.folder}: another process is filling this folder: wait for it, or give another --out") from None
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written ({one_line(error.strerror or error)})") from None
        try:
            self._claim(identity)
            self.rows = self._read()
            self._file = open(self.folder / JOURNAL, "ab")  # noqa: SIM115
        except BaseException:
            self._lock.close()
            raise

    def _claim(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / SWEEP
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if (self.folder / JOURNAL).exists():
                raise ValueError(f"{self.folder}: has rows but no {SWEEP}: give another --out") from None
            write_whole(path, json.dumps(identity, indent=1, ensure_ascii=False).encode())
            return
        except ValueError:
            raise ValueError(f"{path}: damaged: give another --out") from None
        if there != identity:
            keys = [key for key in identity if not isinstance(there, dict) or there.get(key) != identity[key]]
            raise ValueError(
                f"{self.folder}: holds rows of another sweep ({', '.join(keys) or 'more keys'} differ): give another --out, "
                "or the sweep and the images that it was begun with"
            )

    def _read(self) -> dict[int, dict[str, Any]]:
        """Rows by their cell's number, with a line that was cut short taken off the file."""
        path = self.folder / JOURNAL
        rows: dict[int, dict[str, Any]] = {}
        if not path.exists():
            return rows
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(path, whole)
        for line in text[:whole].splitlines():
            try:
                entry = json.loads(line)
                rows[entry["cell"]] = {"row": dict(entry["row"]), "times": dict(entry["times"])}
            except (ValueError, KeyError, TypeError):
                continue
        return rows

    def add(self, number: int, row: Mapping[str, Any], times: Mapping[str, Any], image: bytes | None, features: bytes | None):
        """Appends a finished row. Raises ValueError where the disk does not take it."""
        try:
            if image is not None:
                write_whole(self.image_path(number), image)
            if features is not None:
                write_whole(self.features_path(number), features)
            self._file.write(json.dumps({"cell": number, "row": row, "times": times}, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written ({one_line(error.strerror or error)})") from None
        self.rows[number] = {"row": dict(row), "times": dict(times)}

    def image_path(self, number: int) -> Path:
        """Where the received image of a cell lies, if it is shown in the report: WebP."""
        return self.folder / IMAGES / f"{number:07}.webp"

    def features_path(self, number: int) -> Path:
        """Where Inception's features of a cell's patches lie, if FID or KID is measured: float32 (P, 2048), in NumPy's format."""
        return self.folder / FEATURES / f"{number:07}.npy"

    def reload(self) -> None:
        """Reads the rows anew: an interrupt may have come between a row's line in the journal and its entry in ``rows``."""
        self._file.flush()
        self.rows = self._read()

    def close(self) -> None:
        self._file.close()
        self._lock.close()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
