# SPDX-License-Identifier: GPL-3.0-or-later
"""A sweep's tables: one row a transmission, one row a point, and the times, which alone differ from run to run."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import extra, one_line
from .journal import Journal, write_whole
from .learned import fid, kid
from .measures import SET_METRICS, columns
from .plan import Cell, Source, Sweep, channel_uses

if TYPE_CHECKING:
    import pyarrow

TABLE, TIMES, SUMMARY, SUMMARY_CSV = "table.parquet", "times.parquet", "summary.parquet", "summary.csv"

#: Image index → features (P, 2048) of the original's patches, and None where FID and KID are not measured.
OriginalFeatures = Callable[[int], np.ndarray]


def table_rows(sweep: Sweep, cells: Sequence[Cell], sources: Sequence[Source], sizes: Sequence[tuple[int, int]], journal: Journal):
    """Finished rows in the order of the cells: (rows of the table, rows of the times)."""
    rows, times = [], []
    for cell in cells:
        if cell.number not in journal.rows:
            continue
        found = journal.rows[cell.number]
        point, source = cell.point, sources[cell.image]
        height, width = sizes[cell.image]
        key = {
            "system": point.system,
            "channel": point.channel,
            "rate": point.rate,
            "snr_db": point.snr_db,
            "image": source.name,
            "repeat": cell.repeat,
        }
        rows.append(
            {
                **key,
                "rate_value": float(Fraction(point.rate)),
                "seed": cell.seed,
                "width": width,
                "height": height,
                "budget": channel_uses(point.rate, height, width),
                **found["row"],
                "spec": json.dumps(sweep.systems[point.system], sort_keys=True, ensure_ascii=False),
                "image_sha256": source.sha256,
            }
        )
        times.append({**key, **found["times"]})
    return rows, times


def summarise(
    sweep: Sweep, cells: Sequence[Cell], journal: Journal, original: OriginalFeatures | None, read: Callable[[], list[dict]]
) -> list[dict[str, Any]]:
    """One row a point: transmissions, the share that arrived as an image, and the means of those that did.

    FID and KID compare the patches of all images that arrived with those of their originals.
    """
    by_point: dict[Any, list[dict]] = {}
    for row in read():
        by_point.setdefault((row["system"], row["channel"], row["rate"], row["snr_db"]), []).append(row)
    cells_of: dict[Any, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(cell.point, []).append(cell)
    summary = []
    for point in sweep.points:
        rows = by_point.get((point.system, point.channel, point.rate, point.snr_db), [])
        arrived = [row for row in rows if row["sent"]]
        values: dict[str, Any] = {
            "system": point.system,
            "channel": point.channel,
            "rate": point.rate,
            "snr_db": point.snr_db,
            "rate_value": float(Fraction(point.rate)),
            "rows": len(rows),
            "sent": len(arrived),
            "share_sent": len(arrived) / len(rows) if rows else math.nan,
            "channel_uses": _mean([row["channel_uses"] for row in rows]),
        }
        for name in columns(sweep.metrics):
            values[name] = _mean([row[name] for row in arrived])
        for name in SET_METRICS:
            if name in sweep.metrics:
                values[name] = math.nan
        if original is not None and arrived:
            given, wanted = _point_features(cells_of[point], journal, original)
            if "fid" in sweep.metrics:
                values["fid"] = fid(given, wanted)
            if "kid" in sweep.metrics:
                values["kid"] = kid(given, wanted)
        summary.append(values)
    return summary


def _point_features(cells: Sequence[Cell], journal: Journal, original: OriginalFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    given, wanted = [np.zeros((0, 2048), np.float32)], [np.zeros((0, 2048), np.float32)]
    for cell in cells:
        path = journal.features_path(cell.number)
        if cell.number in journal.rows and path.is_file():
            given.append(np.load(path, allow_pickle=False))
            wanted.append(original(cell.image))
    return torch.from_numpy(np.concatenate(given)), torch.from_numpy(np.concatenate(wanted))


def _mean(values: Sequence[float]) -> float:
    """NaN of nothing. NaN among them, which stands for a measure that this image is too small for, makes the mean NaN."""
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else (sum(values) if values else math.nan)


#: Heading of a column of the summary, and how its values are written.
HEADINGS: dict[str, tuple[str, str]] = {
    "psnr_db": ("PSNR, dB", ".2f"),
    "ms_ssim": ("MS-SSIM", ".3f"),
    "lpips_alex": ("LPIPS (AlexNet)", ".3f"),
    "lpips_vgg": ("LPIPS (VGG)", ".3f"),
    "dists": ("DISTS", ".3f"),
    "swd_finest": ("SWD finest", ".2f"),
    "swd_next": ("SWD next", ".2f"),
    "niqe": ("NIQE", ".2f"),
    "niqe_original": ("NIQE of originals", ".2f"),
    "fid": ("FID", ".1f"),
    "kid": ("KID", ".4f"),
    # Of experiments over the air.
    "snr_measured_db": ("SNR received, dB", ".1f"),
    "snr_predicted_db": ("SNR predicted, dB", ".1f"),
}


#: Measures of which less is better; of NIQE it is what is nearer to the originals' value.
LOWER_IS_BETTER = ("lpips_alex", "lpips_vgg", "dists", "swd_finest", "swd_next", "niqe", "fid", "kid")


def measured_columns(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of measures with any value, in the order of `HEADINGS`."""
    return [name for name in HEADINGS if any(not math.isnan(row.get(name, math.nan)) for row in summary)]


def markdown_summary(summary: Sequence[Mapping[str, Any]], sent: str = "sent") -> str:
    """A Markdown table, one line a point. The means are those of the images that could be sent; "—" where there are none.

    sent  heading of their number
    """
    names = measured_columns(summary)
    heads = ["system", "channel", "rate", "SNR, dB", sent, *(HEADINGS[name][0] for name in names)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in summary:
        cells = [str(row["system"]).replace("|", "/"), row["channel"], row["rate"], f"{row['snr_db']:g}"]
        cells.append(f"{row['sent']} of {row['rows']}")
        cells += ["—" if math.isnan(row[name]) else format(row[name], HEADINGS[name][1]) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows, which have the same keys, so that the file is there whole or not at all; the same rows give the same bytes."""
    table = as_table(rows)
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="zstd")
    _write(path, file.getvalue())


def as_table(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """Rows as a table of pyarrow: text, whole numbers, numbers and truth values."""
    with extra("evaluate", "writing a table"):
        import pyarrow

    names = list(rows[0]) if rows else []
    return pyarrow.table({name: pyarrow.array([row[name] for row in rows]) for name in names})


def read_parquet(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a table. Raises ValueError where there is none, or where it is damaged."""
    with extra("evaluate", "reading a table"):
        import pyarrow
        import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: no table ({one_line(error, 150)})") from None


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, numbers to six digits."""
    import csv

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()])
    _write(path, file.getvalue().encode())


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({one_line(error.strerror or error)})") from None
