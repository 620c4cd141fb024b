# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that is prepared: shards, manifest, credits and the list of skipped images. It survives a kill at any moment.

    DIR/train-000000.tar …   shards as WebDataset reads them: ID.jpg and ID.json for each image
    DIR/manifest.json        options, the list's checksum, and each shard with its images, bytes and SHA-256
    DIR/CREDITS.csv          author, title, licence and address of each image
    DIR/skipped.csv          each image that was passed over, and why
    DIR/.work/               shard in progress, list and shuffled list; removed at the end

A shard is finished in three steps: its bytes are on the disk in .work, the manifest that counts it replaces the former one, it
is renamed. The second step decides. After a kill, `Output` completes the third, and cuts from the CSV files what the manifest
does not count.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL

from .convert import Converted
from .lists import Row
from .options import Options

if sys.platform != "win32":
    import fcntl

_FORMAT = "diffjscc-openimages-1"
_CREDITS = ("ImageID", "Title", "Author", "AuthorURL", "License", "URL")
_SKIPPED = ("ImageID", "Reason", "Detail", "URL")


class Output:
    """One folder in preparation, for one process at a time; a context manager.

    Raises ValueError in one line where the folder holds something else, was begun with other options, lacks finished shards, or
    is in use by another process. OSError from the file system (a full disk) passes through.
    """

    def __init__(self, folder: Path, options: Options):
        self.folder, self.work = folder, folder / ".work"
        self._options = options
        self._lock: int | None = None
        self._shard: _Shard | None = None
        self._tables: dict[str, _Table] = {}

    def __enter__(self) -> Output:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        if self._shard is not None:
            # Not finished: its images come again, and on a full disk its room is needed.
            self._shard.discard()
        for table in self._tables.values():
            table.close()
        if self._lock is not None:
            os.close(self._lock)

    def _open(self) -> None:
        path = self.folder / "manifest.json"
        if path.exists():
            self.manifest = _read_manifest(path)
            self._check_options()
        else:
            foreign = next((p.name for p in sorted(self.folder.iterdir()) if p.name != ".work"), None)
            if foreign:
                raise ValueError(f"{self.folder}: holds '{foreign}' and no manifest.json: give an empty or a new folder")
            self.manifest = {
                "format": _FORMAT,
                "complete": False,
                "options": self._options.identity(),
                "pillow": PIL.__version__,
                "list": None,
                "position": 0,
                "images": 0,
                "skipped": {},
                "tables": {"CREDITS.csv": 0, "skipped.csv": 0},
                "shards": [],
            }
            self.work.mkdir(exist_ok=True)
            self._write_manifest()
        self._complete_last_shard()
        self._check_shards()
        if self.complete:
            shutil.rmtree(self.work, ignore_errors=True)
            return
        self.work.mkdir(exist_ok=True)
        self._skipped = Counter(self.manifest["skipped"])
        for name, header in (("CREDITS.csv", _CREDITS), ("skipped.csv", _SKIPPED)):
            self._tables[name] = _Table(self.folder / name, header, self.manifest["tables"][name])

    @property
    def complete(self) -> bool:
        return self.manifest["complete"]

    @property
    def position(self) -> int:
        """How many rows of the shuffled list the finished shards have used up."""
        return self.manifest["position"]

    @property
    def images(self) -> int:
        """Images stored, those of the shard in progress included."""
        return self.manifest["images"] + (self._shard.images if self._shard else 0)

    @property
    def skipped(self) -> dict[str, int]:
        """Images passed over, by reason."""
        return self.manifest["skipped"] if self.complete else dict(sorted(self._skipped.items()))

    def set_list(self, source: str, sha256: str, rows: int, ignored: int) -> None:
        """Notes which list is used. Raises ValueError where the folder was begun with another one."""
        used = {"source": source, "sha256": sha256, "rows": rows, "ignored": ignored}
        before = self.manifest["list"]
        if before is None:
            self._write_manifest(list=used)
        elif before["sha256"] != sha256:
            raise ValueError(
                f"{self.folder}: was begun with another version of {source} (SHA-256 {before['sha256'][:12]}…, now {sha256[:12]}…):"
                " give a new folder"
            )

    def add(self, row: Row, position: int, url: str, md5: str, image: Converted) -> None:
        """Stores an image, and finishes the shard when it is full.

        position  of the shuffled list after this row
        url       where the image was downloaded, md5 of what came, in hexadecimal
        """
        if self._shard is None:
            self._shard = _Shard(self.work / "shard.part")
        about = {
            "image_id": row.image_id,
            "url": row.original_url,
            "landing_url": row.landing_url,
            "license": row.license,
            "author": row.author,
            "author_url": row.author_url,
            "title": row.title,
            "original_md5": row.original_md5,
            "downloaded_from": url,
            "downloaded_md5": md5,
            "width": image.width,
            "height": image.height,
        }
        self._shard.add(f"{row.image_id}.{self._options.format}", image.data)
        self._shard.add(f"{row.image_id}.json", json.dumps(about, ensure_ascii=False, indent=1).encode())
        self._shard.images += 1
        self._tables["CREDITS.csv"].write(row.image_id, row.title, row.author, row.author_url, row.license, row.landing_url)
        if self._shard.images == self._options.shard_size:
            self._commit(position)

    def skip(self, row: Row, url: str, reason: str, detail: str) -> None:
        """Notes an image that is passed over."""
        self._skipped[reason] += 1
        self._tables["skipped.csv"].write(row.image_id, reason, detail, url)

    def finish(self, position: int) -> None:
        """Finishes the last shard and the manifest, and removes what was only needed on the way."""
        self._commit(position, complete=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def _commit(self, position: int, complete: bool = False) -> None:
        shards, images = list(self.manifest["shards"]), self.images
        if self._shard is not None:
            name = f"{self._options.split}-{len(shards):06}.tar"
            count = self._shard.images
            size, sha256 = self._shard.close()
            # From here on `__exit__` must not remove its bytes: once the manifest is replaced, they are all there is.
            self._shard = None
            shards.append({"file": name, "images": count, "bytes": size, "sha256": sha256})
        self._write_manifest(
            complete=complete,
            position=position,
            images=images,
            skipped=self.skipped,
            tables={name: table.sync() for name, table in self._tables.items()},
            shards=shards,
        )
        self._complete_last_shard()

    def _write_manifest(self, **changes) -> None:
        manifest, partial = {**self.manifest, **changes}, self.work / "manifest.part"
        with open(partial, "w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / "manifest.json")
        self.manifest = manifest

    def _complete_last_shard(self) -> None:
        """The last step of a shard that the manifest counts already."""
        if self.manifest["shards"]:
            shard, partial = self.manifest["shards"][-1], self.work / "shard.part"
            last = self.folder / shard["file"]
            if not last.exists() and partial.exists() and partial.stat().st_size == shard["bytes"]:
                os.replace(partial, last)

    def _check_options(self) -> None:
        before, now = self.manifest["options"], self._options.identity()
        changed = [f"{k.replace('_', '-')} {before.get(k)}" for k in now if before.get(k) != now[k]]
        if changed:
            raise ValueError(f"{self.folder}: was begun with {', '.join(changed)}: give the same options, or another folder")

    def _check_shards(self) -> None:
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise ValueError(
                    f"{path}: missing, or not {shard['bytes']} bytes as in the manifest: bring it back, or begin a new folder"
                )


class _Shard:
    """A .tar file in progress whose bytes depend on its members alone."""

    def __init__(self, path: Path):
        self.images = 0
        self._path, self._file = path, _HashedFile(path)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]

    def add(self, name: str, data: bytes) -> None:
        # Owner, group and time stay at their defaults: root and 1970.
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> tuple[int, str]:
        """Completes the file and writes it to the disk; (bytes, SHA-256)."""
        self._tar.close()
        return self._file.sync_and_close()

    def discard(self) -> None:
        self._file.discard()
        self._path.unlink(missing_ok=True)


class _HashedFile:
    """A file that is written from beginning to end and hashed on the way; as much of a file as tarfile asks for."""

    def __init__(self, path: Path):
        self._file = open(path, "wb")  # noqa: SIM115
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def sync_and_close(self) -> tuple[int, str]:
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return size, self._digest.hexdigest()

    def discard(self) -> None:
        # On a full disk, closing tries once more to write what is buffered.
        with suppress(OSError):
            self._file.close()


class _Table:
    """A CSV file that grows; what was written after its last `sync` is cut off when it is opened again."""

    def __init__(self, path: Path, header: tuple[str, ...], length: int):
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise ValueError(f"{path}: {size} bytes instead of {length} as in the manifest: bring it back, or begin a new folder")
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        self._file.truncate(length)
        self._file.seek(length)
        if not length:
            self.write(*header)

    def write(self, *values: str) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._file.write(line.getvalue().encode())

    def sync(self) -> int:
        """Writes all to the disk; returns the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a manifest of `diffjscc data openimages`: give an empty or a new folder")
    return manifest


def _lock(folder: Path) -> int | None:
    """Keeps other processes out of ``folder`` until the descriptor is closed. The lock is on the folder and leaves no file."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{folder}: another process is preparing data there: wait for it, or give another folder") from None
    except OSError:
        # Some network file systems cannot lock folders.
        pass
    return descriptor
