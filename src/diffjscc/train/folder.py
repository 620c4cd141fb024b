# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a run: its files appear whole or not at all, and one training at a time writes them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError

from ..errors import one_line
from ..folders import new_folder

if sys.platform != "win32":
    import fcntl


class RunFolder:
    """Files of a run.

    recipe.json    what it computes and from which images, for people
    checkpoint.pt  everything that it needs to go on, and once more what it computes
    model/         the trained weights, ready to be named by a path, with a model card
    unreadable.txt images that were passed over because they could not be read
    logs/          of a tracker
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.checkpoint, self.model, self.logs = self.path / "checkpoint.pt", self.path / "model", self.path / "logs"
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Makes the folder, and keeps other trainings out of it until this process ends or calls `close`.

        Raises ValueError where another training writes there, or the folder cannot be made.
        """
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115, held for as long as the training lasts
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise ValueError(f"{self.path}: another training writes there: wait for it, or give another --out") from None
            except OSError:
                # Some network file systems cannot lock.
                pass
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def description(self) -> dict[str, Any] | None:
        """What the run computes, as its checkpoint says; None where there is no checkpoint. Raises ValueError for a damaged one."""
        if not self.checkpoint.exists():
            return None
        with self._reading():
            # Mapped: a checkpoint may be as large as the memory.
            return torch.load(self.checkpoint, map_location="cpu", mmap=True, weights_only=True)["description"]

    def load(self) -> dict[str, Any]:
        """The state of the checkpoint. Raises ValueError for a damaged one."""
        with self._reading():
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint; until it is complete, the former one stands. Raises ValueError where it cannot be written."""
        partial = self.checkpoint.with_suffix(".part")
        with self.writing(partial):
            with open(partial, "wb") as file:
                try:
                    torch.save(dict(state), file)
                except RuntimeError as error:
                    # So torch says that the file could not be written.
                    raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.checkpoint)

    def write(self, name: str, text: str) -> None:
        """Writes a text file. Raises ValueError where it cannot."""
        partial = self.path / f".{name}.part"
        with self.writing(partial):
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
            os.replace(partial, self.path / name)

    @contextmanager
    def new_model(self) -> Iterator[Path]:
        """An empty folder to write the model into; it replaces model/ at the end of the block."""
        with self.writing(), new_folder(self.model, replace=True) as folder:
            yield folder

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # torch raises what it likes for a file that is no checkpoint, or is cut short.
            raise ValueError(
                f"{self.checkpoint}: damaged, cut short or of another version ({one_line(error, 100)}): remove it to begin anew,"
                f" or name {self.model} as start_from"
            ) from None

    @contextmanager
    def writing(self, partial: Path | None = None) -> Iterator[None]:
        """Around whatever writes into the folder: raises ValueError where it cannot, and removes ``partial`` in any case."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error, 150)
            kept = "; the checkpoint before is kept" if self.checkpoint.exists() else ""
            raise ValueError(f"{self.path} cannot be written: {reason}{kept}. Make room, or give another --out") from None
        finally:
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def same_run(before: Mapping[str, Any], now: Mapping[str, Any], free: tuple[str, ...]) -> list[str]:
    """Keys in which two descriptions differ, nested ones with a dot; those in ``free`` do not count."""
    flat_before, flat_now = _flat(before), _flat(json.loads(json.dumps(now)))
    return [key for key, value in flat_now.items() if key not in free and flat_before.get(key) != value]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
