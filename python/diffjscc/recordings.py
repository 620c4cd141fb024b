# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings of samples: SigMF, https://sigmf.org."""

import datetime
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

from gnuradio import blocks, gr

#: Bytes of a complex sample, by SigMF's name of its type.
DATATYPES = {"cf32_le": 8, "ci16_le": 4, "ci8": 2}


@dataclass(frozen=True)
class Recording:
    """A SigMF recording of one channel.

    data         file of samples
    datatype     of a sample, one of DATATYPES
    sample_rate  samples/s; None where the recording does not say
    frequency    of the carrier at its start, Hz; None where the recording does not say
    """

    data: Path
    datatype: str
    sample_rate: float | None
    frequency: float | None


def recording_paths(name):
    """(samples, metadata) of a recording, named with or without one of their suffixes."""
    stem = str(name).removesuffix(".sigmf-data").removesuffix(".sigmf-meta")
    return Path(f"{stem}.sigmf-data"), Path(f"{stem}.sigmf-meta")


def read_recording(name):
    """The Recording of a name. Raises ValueError where there is none, or where it cannot be replayed."""
    data, path = recording_paths(name)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        properties, captures = metadata["global"], metadata["captures"]
        datatype, channels = properties["core:datatype"], properties.get("core:num_channels", 1)
        rate = properties.get("core:sample_rate")
        frequency = captures[0].get("core:frequency") if captures else None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the metadata of a SigMF recording ({type(error).__name__}: {error})") from None
    if str(datatype) not in DATATYPES or channels != 1:
        raise ValueError(f"{path}: {channels} channel of {datatype}: expected 1 of {', '.join(DATATYPES)}")
    for value in (rate, frequency):
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{path}: {value!r} is neither a sample rate nor a frequency")
    return Recording(data, datatype, rate, frequency)


def sigmf_sink(name, sample_rate, frequency=None):
    """A block that records its complex samples as SigMF, from now. Raises ValueError where it cannot write there."""
    data, path = recording_paths(name)
    block = written(data)
    now = datetime.datetime.now(datetime.timezone.utc)
    capture = {"core:sample_start": 0, "core:datetime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    if frequency is not None:
        capture["core:frequency"] = frequency
    properties = {
        "core:datatype": "cf32_le",
        "core:sample_rate": sample_rate,
        "core:version": "1.0.0",
        "core:recorder": "gr-diffjscc",
    }
    path.write_text(json.dumps({"global": properties, "captures": [capture], "annotations": []}, indent=2) + "\n")
    return block


def written(path):
    """A block that writes complex samples to a file. Raises ValueError where it cannot."""
    try:
        Path(path).touch()
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror.lower()}") from None
    return blocks.file_sink(gr.sizeof_gr_complex, str(path))
