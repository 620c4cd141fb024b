# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings of samples, and receiving them again: SigMF, https://sigmf.org."""

import collections
import errno
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gnuradio import blocks, gr

#: Bytes of a complex sample, by SigMF's name of its type.
DATATYPES = {"cf32_le": 8, "ci16_le": 4, "ci16_be": 4, "ci8": 2, "cu8": 2}


@dataclass(frozen=True)
class Part:
    """Samples of a recording that follow each other in its file.

    start   bytes before them in the file
    length  samples
    gap     samples that are missing before them
    """

    start: int
    length: int
    gap: int = 0


@dataclass(frozen=True)
class Recording:
    """A SigMF recording of one channel.

    data         file of samples
    datatype     of a sample, one of DATATYPES
    sample_rate  samples/s; None where the recording does not say
    frequency    of the carrier at its start, Hz; None where the recording does not say
    parts        of the file, in order: its captures, without the headers between them
    """

    data: Path
    datatype: str
    sample_rate: float | None
    frequency: float | None
    parts: tuple[Part, ...]


def recording_paths(name):
    """(samples, metadata) of a recording, named with or without one of their suffixes."""
    stem = str(name).removesuffix(".sigmf-data").removesuffix(".sigmf-meta")
    return Path(f"{stem}.sigmf-data"), Path(f"{stem}.sigmf-meta")


def global_fields(sample_rate, description=""):
    """The "global" object of a recording that is written here."""
    fields = {"core:datatype": "cf32_le", "core:sample_rate": sample_rate, "core:version": "1.0.0", "core:recorder": "gr-diffjscc"}
    return fields | {"core:description": description} if description else fields


def capture_of(start, began, frequency):
    """A capture of a recording that is written here, from sample ``start`` on; ``began`` in UTC, frequency in Hz or None."""
    fields = {"core:sample_start": start, "core:datetime": began.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    return fields if frequency is None else fields | {"core:frequency": frequency}


def unused_recording(name):
    """``name``, or name-2, name-3, … where a recording of that name exists."""
    stem, number = str(recording_paths(name)[0]).removesuffix(".sigmf-data"), 2
    found = stem
    while any(path.exists() for path in recording_paths(found)):
        found, number = f"{stem}-{number}", number + 1
    return found


def read_recording(name):
    """The Recording of a name. Raises ValueError where there is none, or where it cannot be replayed."""
    data, path = recording_paths(name)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        properties, captures = metadata["global"], metadata["captures"]
        datatype, channels = properties["core:datatype"], properties.get("core:num_channels", 1)
        rate = properties.get("core:sample_rate")
        frequencies = [capture.get("core:frequency") for capture in captures]
        starts = [capture.get("core:sample_start", 0) for capture in captures] or [0]
        headers = [capture.get("core:header_bytes", 0) for capture in captures] or [0]
        indexes = [capture.get("core:global_index", start) for capture, start in zip(captures, starts)] or [0]
        trailer = properties.get("core:trailing_bytes", 0)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not the metadata of a SigMF recording ({type(error).__name__}: {error})") from None
    if str(datatype) not in DATATYPES or channels != 1:
        raise ValueError(f"{path}: {channels} channel of {datatype}: expected 1 of {', '.join(DATATYPES)}")
    for value in (rate, *frequencies):
        if value is not None and not (_is_number(value) and math.isfinite(value)):
            raise ValueError(f"{path}: {value!r} is neither a sample rate nor a frequency")
    if rate is not None and rate <= 0:
        raise ValueError(f"{path}: sample rate {rate:g}: must be above 0")
    for value in (*starts, *headers, *indexes, trailer):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{path}: {value!r} is no number of samples or bytes")
    if starts != sorted(starts):
        raise ValueError(f"{path}: its captures are not in the order of their samples")
    try:
        size = data.stat().st_size
    except OSError as error:
        raise ValueError(f"{data}: {error.strerror.lower()}") from None
    parts = tuple(_parts(starts, headers, indexes, size - trailer, DATATYPES[datatype]))
    if data.is_dir() or not parts:
        raise ValueError(f"{data}: holds no samples of type {datatype}")
    return Recording(data, datatype, rate, frequencies[0] if frequencies else None, parts)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parts(starts, headers, indexes, size, item):
    """The Parts of a file of ``size`` bytes that hold samples; ``item`` bytes make one sample."""
    skipped, missing = 0, indexes[0] - starts[0]
    # What is before the first capture belongs to nothing that is described: it is not replayed.
    for number, (start, header, index) in enumerate(zip(starts, headers, indexes, strict=True)):
        skipped += header
        begin = skipped + start * item
        left = max(0, (size - begin) // item)
        length = min(left, starts[number + 1] - start) if number + 1 < len(starts) else left
        gap, missing = max(0, index - start - missing), index - start
        if length > 0:
            yield Part(begin, length, gap)


#: Complex samples, of which 1 is full scale, from the bytes of a file: NumPy's type of their parts, what is in the middle of the
#: scale, and its half.
_SCALES = {"cf32_le": ("<f4", 0, 1), "ci16_le": ("<i2", 0, 32768), "ci16_be": (">i2", 0, 32768), "ci8": ("i1", 0, 128)}
# The middle of the unsigned numbers is between two of them.
_SCALES["cu8"] = ("u1", 127.5, 128)


def _samples(data, datatype):
    """The complex samples in the bytes of a file, complex64."""
    kind, middle, full_scale = _SCALES[datatype]
    values = np.frombuffer(data, kind).astype(np.float32)
    if middle:
        values -= middle
    if full_scale != 1:
        values *= np.float32(1 / full_scale)
    return values.view(np.complex64)


class replay(gr.sync_block):
    """The samples of a file, as complex floats of which 1 is full scale, and silence behind them for blocks that look ahead.

    path      of the file
    datatype  of its samples, one of DATATYPES
    parts     Parts of it, in order. Where samples are missing between two, silence stands for them
    silence   samples behind the last one, and at most between two

    Raises OSError where the file cannot be read.
    """

    def __init__(self, path, datatype, parts, silence):
        gr.sync_block.__init__(self, name="replay", in_sig=None, out_sig=[np.complex64])
        self._file, self._datatype, self._size = io.FileIO(path), datatype, DATATYPES[datatype]
        #: What is left: (bytes before it in the file, or None for silence; samples).
        self._steps = collections.deque()
        for part in parts:
            if part.gap:
                self._steps.append((None, min(part.gap, silence)))
            self._steps.append((part.start, part.length))
        self._steps.append((None, silence))

    def work(self, input_items, output_items):
        out = output_items[0]
        while self._steps:
            place, left = self._steps.popleft()
            count = min(left, len(out))
            if place is None:
                out[:count] = 0
            else:
                count = self._read(place, out[:count])
            # A file that has become shorter meanwhile ends there.
            if 0 < count < left:
                self._steps.appendleft((place if place is None else place + count * self._size, left - count))
            if count:
                return count
        return -1

    def _read(self, place, out):
        """Fills ``out`` from a place in the file; returns the number of samples, 0 at its end."""
        self._file.seek(place)
        data = self._file.read(len(out) * self._size)
        count = len(data) // self._size
        out[:count] = _samples(data[: count * self._size], self._datatype)
        return count


class SampleFile:
    """A recording's samples by their place in the stream of a receiver that is given it: gaps are silence there.

    Raises ValueError where there is no such recording.
    """

    def __init__(self, name, silence):
        recording = read_recording(name)
        self._bytes, self._datatype = np.memmap(recording.data, np.uint8, "r"), recording.datatype
        self._places, place = [], 0
        for part in recording.parts:
            place += min(part.gap, silence)
            self._places.append((place, part.start, part.length))
            place += part.length

    def read(self, start, count):
        """complex64 (count,), NaN where there are no samples."""
        found = np.full(count, np.nan, np.complex64)
        for place, first, length in self._places:
            begin, end = max(start, place), min(start + count, place + length)
            if begin < end:
                size = DATATYPES[self._datatype]
                offset = first + (begin - place) * size
                found[begin - start : end - start] = _samples(self._bytes[offset : offset + (end - begin) * size], self._datatype)
        return found


def written(path):
    """A block that writes complex samples to a file. Raises ValueError where it cannot."""
    try:
        Path(path).touch()
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None
    return blocks.file_sink(gr.sizeof_gr_complex, str(path))
