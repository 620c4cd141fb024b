# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of a split, and a random order of its rows that does not need them in memory.

Every row gets a 64-bit key, a hash of the seed and its ImageID; the order is that of the keys. The rows are distributed over
files by the first bits of their keys, once, and then sorted one file at a time (a distribution sort on disk). So the order
depends on the seed and on the ImageIDs alone, any number of rows from its beginning is a random sample of the list, and memory
holds one file's rows, about 16 MB of them.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...errors import one_line
from ...folders import new_folder
from .options import LIST_NAMES, Options, is_address

#: Columns of Open Images' lists. The first ones are needed; a list without the others is used without what they tell.
NEEDED = ("ImageID", "OriginalURL", "OriginalLandingURL", "License", "Author", "Title")
FURTHER = ("AuthorProfileURL", "OriginalSize", "OriginalMD5", "Rotation")

#: Size of the files that rows are distributed over, in bytes, and the most of them: each is an open file for a while.
_FILE_BYTES, _MAX_FILES = 16_000_000, 200
#: No line is longer than this, in bytes; csv refuses longer fields anyway.
_MAX_LINE = 1 << 17
#: An ImageID is part of addresses and file names.
_IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True)
class Row:
    """One image of a list: all columns as text, "" where the list lacks one."""

    image_id: str
    original_url: str
    landing_url: str
    license: str
    author: str
    title: str
    author_url: str = ""
    size: str = ""
    md5: str = ""
    rotation_text: str = ""

    @property
    def rotation(self) -> int:
        """Degrees counterclockwise: 0, 90, 180 or 270; 0 where the list does not know ("nan" or nothing)."""
        try:
            degrees = float(self.rotation_text)
        except ValueError:
            return 0
        return int(degrees) % 360 if math.isfinite(degrees) and degrees % 90 == 0 else 0

    @property
    def original_size(self) -> int | None:
        """Bytes of the author's original file."""
        return int(self.size) if self.size.isdecimal() else None

    @property
    def original_md5(self) -> str | None:
        """MD5 of the author's original file, in hexadecimal. The lists have it in base 64."""
        if re.fullmatch("[0-9a-fA-F]{32}", self.md5):
            return self.md5.lower()
        try:
            digest = base64.b64decode(self.md5, validate=True)
        except (binascii.Error, ValueError):
            return None
        return digest.hex() if len(digest) == 16 else None


def list_source(options: Options) -> str:
    """Address or path of the split's list. Raises ValueError where a folder does not hold it."""
    name = LIST_NAMES[options.split]
    if is_address(options.lists):
        return options.lists if options.lists.endswith(".csv") else f"{options.lists}/{options.split}/{name}"
    path = Path(options.lists)
    if path.is_file():
        return str(path)
    for found in (path / name, path / options.split / name):
        if found.is_file():
            return str(found)
    raise ValueError(f"{path}: holds no {name}: download it from Open Images into this folder, or give another --lists")


class ShuffledList:
    """The rows of a list in random order, from a folder that `build` has made.

    sha256   of the list, as the server or the disk had it
    rows     how many are in the order
    ignored  how many were not taken: of another split, or without a usable ImageID
    """

    def __init__(self, folder: Path):
        index = json.loads((folder / "index.json").read_text())
        self.sha256, self.rows, self.ignored = index["sha256"], index["rows"], index["ignored"]
        self._folder, self._counts = folder, index["counts"]

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (folder / "index.json").exists()

    @classmethod
    def build(cls, folder: Path, path: Path, source: str, options: Options, on_bytes: Callable[[int], None]) -> ShuffledList:
        """Reads the list in ``path`` and fills ``folder``, which appears as a whole. Raises ValueError for what is no such list.

        source    the list's name in messages
        on_bytes  is told from time to time how many bytes have been read
        """
        files = min(_MAX_FILES, 1 + path.stat().st_size // _FILE_BYTES)
        counts, ignored, digest = [0] * files, 0, hashlib.sha256()
        with new_folder(folder, replace=True) as partial, ExitStack() as opened, open(path, "rb") as list_file:
            parts = [opened.enter_context(open(partial / f"{i:03}", "wb")) for i in range(files)]
            for number, values in enumerate(_read_rows(list_file, source, digest)):
                if number % 10_000 == 0:
                    on_bytes(list_file.tell())
                subset, fields = values
                if subset not in ("", options.split) or not _IMAGE_ID.fullmatch(fields[0]):
                    ignored += 1
                    continue
                key = _key(options.seed, fields[0])
                part = key * files >> 64
                parts[part].write(f"{key:016x}{json.dumps(fields)}\n".encode())
                counts[part] += 1
            on_bytes(list_file.tell())
            if not any(counts):
                raise ValueError(f"{source}: no rows of split '{options.split}' ({ignored} others): check --lists and --split")
            index = {"sha256": digest.hexdigest(), "rows": sum(counts), "ignored": ignored, "counts": counts}
            (partial / "index.json").write_text(json.dumps(index))
        return cls(folder)

    def candidates(self, position: int) -> Iterator[tuple[int, Row]]:
        """(position after it, row) for each row from ``position`` on. A repeated ImageID comes once."""
        first = 0
        for number, count in enumerate(self._counts):
            if first + count > position:
                lines = sorted((self._folder / f"{number:03}").read_bytes().splitlines())
                last_id = ""
                for place, line in enumerate(lines, first + 1):
                    row = Row(*json.loads(line[16:]))
                    if place > position and row.image_id != last_id:
                        yield place, row
                    last_id = row.image_id
            first += count


def _key(seed: int, image_id: str) -> int:
    digest = hashlib.blake2b(image_id.encode(), digest_size=8, salt=seed.to_bytes(16, "little"))
    return int.from_bytes(digest.digest(), "big")


def _read_rows(file, source: str, digest) -> Iterator[tuple[str, list[str]]]:
    """(subset, the values of NEEDED and FURTHER) for each row of a CSV file. Updates ``digest`` with all of its bytes."""

    def lines() -> Iterator[str]:
        while line := file.readline(_MAX_LINE):
            digest.update(line)
            yield line.decode("utf-8", "replace")

    text = lines()
    first = next(text, "").removeprefix("\ufeff")
    try:
        header = next(csv.reader([first]), [])
    except csv.Error:
        header = []
    missing = [name for name in NEEDED if name not in header]
    if "ImageID" not in header:
        raise ValueError(
            f"{source}: not a list of Open Images: it begins with '{one_line(first, 40)}'"
            f" where '{','.join(NEEDED[:2])},…' is expected: check --lists"
        )
    if missing:
        raise ValueError(f"{source}: lacks the columns {', '.join(missing)}: use a list with image information, see --lists")
    columns = [header.index(name) if name in header else None for name in NEEDED + FURTHER]
    subset = header.index("Subset") if "Subset" in header else None
    reader = csv.reader(text)
    try:
        for values in reader:
            if len(values) != len(header):
                # Cut or damaged: without an ImageID, it counts as ignored.
                yield "", [""]
                continue
            yield values[subset] if subset is not None else "", ["" if c is None else values[c].strip() for c in columns]
    except csv.Error as error:
        raise ValueError(f"{source}: damaged at line {reader.line_num + 1} ({error}): download it again") from None
