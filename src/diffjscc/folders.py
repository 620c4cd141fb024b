# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders that appear, and are replaced, as a whole."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

#: Linux: exchange two names in one step; relative paths start in the working folder.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


@contextmanager
def new_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``target`` at the end of the block; after an exception it is removed.

    replace  whether ``target`` may exist: it is exchanged for the new folder in one step, and then removed

    Until the end of the block, and after a failure or a crash at any time, ``target`` is what it was before. Only one process
    at a time fills folders beside ``target``. Raises ValueError where another one does, and OSError where the file system refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("part", "old"))
    with _locked(target.parent):
        _recover(target, partial, old)
        try:
            partial.mkdir()
            yield partial
            if replace and os.path.lexists(target):
                _exchange(partial, target, old)
            else:
                os.rename(partial, target)
        finally:
            _remove(partial)
            _remove(old)


def _recover(target: Path, partial: Path, old: Path) -> None:
    """Clears what a process that was killed has left."""
    if os.path.lexists(old) and not os.path.lexists(target):
        os.rename(old, target)
    _remove(partial)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Puts ``new`` in the place of ``target``, which is then found under the name of ``new`` or as ``old``."""
    if _exchange_at_once(new, target):
        return
    # Two steps. After a crash between them, `_recover` completes the second or undoes the first.
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise


def _exchange_at_once(first: Path, second: Path) -> bool:
    """Swaps two names in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of this block for the same folder. The lock is on the folder itself and leaves no file."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is writing a model there: try again when it is done") from None
        except OSError:
            # Some network file systems cannot lock folders.
            pass
        yield
    finally:
        os.close(descriptor)
