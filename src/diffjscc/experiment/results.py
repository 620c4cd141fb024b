# SPDX-License-Identifier: GPL-3.0-or-later
"""An experiment's tables and its report: one row a transmission of the plan, whether it was received or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..evaluate.plan import channel_uses
from ..evaluate.report import write_report
from ..evaluate.run import Results
from ..evaluate.table import SUMMARY, SUMMARY_CSV, TABLE, write_csv, write_parquet
from .chirps import carrier_to_noise_db, distortion_db, predicted_snr_db
from .collector import Collector
from .plan import Plan, Point
from .schedule import Chirp, Schedule

REPORT = "report.html"

#: Columns of measures, NaN where nothing was received.
MEASURED = ("psnr_db", "ms_ssim", "snr_measured_db", "loss", "cfo_hz", "clock_ppm", "delay_spread_us")

#: (first sample, number) → complex64, NaN where there are no samples.
Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class View:
    """A plan as the evaluation's report reads a sweep: its amplitudes are the report's channels."""

    plan: Plan

    @property
    def systems(self) -> dict[str, Any]:
        return self.plan.systems

    @property
    def repeats(self) -> int:
        return self.plan.repeats

    @property
    def metrics(self) -> list[str]:
        return ["psnr", "ms-ssim"]

    @property
    def points(self) -> list[Point]:
        return self.plan.points


def measure_chirps(collector: Collector, read: Read) -> dict[int, float]:
    """C/N₀ in dB·Hz of each chirp, by its first planned sample; NaN where it cannot be measured.

    The nearest burst that was received tells where in the stream a chirp lies.
    """
    measured = {}
    if not collector.anchors:
        return {chirp.begin: math.nan for chirp in collector.schedule.chirps}
    planned, received = (np.array(column) for column in zip(*collector.anchors))
    clock = float(np.median(collector.clock_offsets))
    for chirp in collector.schedule.chirps:
        nearest = int(np.abs(planned - chirp.begin).argmin())
        begin = int(received[nearest] + round((chirp.begin - planned[nearest]) * (1 + clock)))
        samples = read(begin, chirp.total) if begin >= 0 else np.zeros(0, np.complex64)
        measured[chirp.begin] = carrier_to_noise_db(samples, chirp.length, collector.sample_rate)
    return measured


def table_rows(collector: Collector, chirps: Mapping[int, float]) -> list[dict[str, Any]]:
    """One row a transmission, in the order of the table; what was not received says so, and whether it could be sent at all."""
    schedule, journal_rows, sample_rate = collector.schedule, collector.journal.rows, collector.sample_rate
    plan, rows = schedule.plan, []
    nearest = _chirps_before(schedule, chirps)
    for cell in schedule.cells:
        entry, point = schedule.by_number[cell.number], cell.point
        source = schedule.sources[cell.image]
        found = dict(journal_rows[cell.number]["row"]) if cell.number in journal_rows else {}
        ratio = nearest[cell.number]
        backoff_db = 20 * math.log10(max(plan.amplitudes) / point.amplitude)
        distortion = distortion_db(plan.preset, plan.clip_db, point.snr_db)
        predicted = predicted_snr_db(ratio, backoff_db, plan.peak_db(point.snr_db), distortion, sample_rate)
        parts = int(found.get("fragments_received", 0))
        rows.append(
            {
                "transmission": cell.number,
                "system": point.system,
                "channel": point.channel,
                "amplitude": point.amplitude,
                "rate": point.rate,
                "snr_db": point.snr_db,
                "image": source.name,
                "repeat": cell.repeat,
                "status": _status(collector, cell.number, parts, len(entry.bursts)),
                "sent": bool(found),
                **{name: float(found.get(name, math.nan)) for name in MEASURED},
                "snr_predicted_db": predicted,
                "cn0_db_hz": ratio,
                "fragments": len(entry.bursts),
                "fragments_received": parts,
                "decoded_whole": bool(found.get("decoded_whole", False)),
                "planned_at": entry.begin,
                "received_at": int(found.get("received_at", -1)),
                "width": source.width,
                "height": source.height,
                "channel_uses": channel_uses(point.rate, source.height, source.width),
                "rate_value": float(Fraction(point.rate)),
                "image_sha256": source.sha256,
            }
        )
    return rows


def _status(collector: Collector, number: int, parts: int, expected: int) -> str:
    if parts:
        return "received" if parts == expected else "received in part"
    return "not received" if collector.can_be_sent(number) else "cannot be sent"


def _chirps_before(schedule: Schedule, chirps: Mapping[int, float]) -> dict[int, float]:
    """C/N₀ of the last chirp before each transmission that could be measured; before the first one, of that one."""
    known = math.nan
    waiting: list[int] = []
    found: dict[int, float] = {}
    for entry in schedule.entries:
        if isinstance(entry, Chirp):
            value = chirps.get(entry.begin, math.nan)
            if not math.isnan(value):
                found.update(dict.fromkeys(waiting, value))
                known, waiting = value, []
        else:
            found[entry.cell.number] = known
            if math.isnan(known):
                waiting.append(entry.cell.number)
    return found


def summarise(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a point: transmissions, the share that was received, and the means of those that were."""
    by_point: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_point.setdefault((row["system"], row["amplitude"], row["rate"], row["snr_db"]), []).append(row)
    summary = []
    for point in plan.points:
        found = by_point[point.system, point.amplitude, point.rate, point.snr_db]
        received = [row for row in found if row["sent"]]
        summary.append(
            {
                "system": point.system,
                "channel": point.channel,
                "amplitude": point.amplitude,
                "rate": point.rate,
                "snr_db": point.snr_db,
                "rate_value": float(Fraction(point.rate)),
                "rows": len(found),
                "sent": len(received),
                "share_sent": len(received) / len(found),
                "channel_uses": fmean(row["channel_uses"] for row in found),
                **{name: _mean([row[name] for row in received]) for name in MEASURED},
                "snr_predicted_db": _mean([row["snr_predicted_db"] for row in found]),
                "cn0_db_hz": _mean([row["cn0_db_hz"] for row in found]),
            }
        )
    return summary


def _mean(values: Sequence[float]) -> float:
    """Of the values that are known; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def write_results(collector: Collector, read: Read, report: Path | None = None) -> Results:
    """Writes the tables and the report from what has been received so far. Raises ValueError where they cannot be written.

    read    the receiver's samples
    report  where the page goes; None: into the results' folder
    """
    schedule, out = collector.schedule, collector.out
    collector.journal.reload()
    chirps = measure_chirps(collector, read)
    rows = table_rows(collector, chirps)
    summary = summarise(schedule.plan, rows)
    write_parquet(out / TABLE, rows)
    write_parquet(out / SUMMARY, summary)
    write_csv(out / SUMMARY_CSV, summary)
    images = {number: collector.journal.image_path(number) for number in collector.journal.rows}
    images = {number: path for number, path in images.items() if path.is_file()}
    results = Results(
        View(schedule.plan),  # type: ignore[arg-type]
        schedule.sources,  # type: ignore[arg-type]
        rows,
        summary,
        missing=notes(collector, rows, chirps),
        images=images,
        words={"sent": "received", "could": "were received", "cannot": "not received", "could_not": "were not"},
    )
    write_report(results, report or out / REPORT)
    return results


def notes(collector: Collector, rows: Sequence[Mapping[str, Any]], chirps: Mapping[int, float]) -> list[str]:
    """Sentences for the report and the terminal."""
    received = sum(row["sent"] for row in rows)
    lines = [
        f"{received} of {len(rows)} transmissions were received. Means are those of what was received, with the share beside them."
    ]
    impossible = sum(row["status"] == "cannot be sent" for row in rows)
    if impossible:
        lines.append(f"{impossible} of the others cannot be sent: the image does not fit at its codec's coarsest setting.")
    known = [value for value in chirps.values() if not math.isnan(value)]
    if known and not any(map(math.isfinite, known)):
        lines.append("There was no noise that could be measured: C/N₀ is infinite.")
    elif known:
        lines.append(
            f"C/N₀ {min(known):.1f} to {max(known):.1f} dB·Hz at the highest amplitude, by {len(known)} of {len(chirps)} chirps."
            " The SNR predicted follows from it and from the peak power that an image has; reception adds what the receiver loses."
        )
    elif chirps:
        lines.append("No chirp could be measured: there is no C/N₀, and no SNR predicted.")
    lines.append("The SNR of a point is the one that its images were encoded for; its channel is the peak amplitude.")
    if collector.repeated:
        lines.append(f"{collector.repeated} bursts came again and were left out: the plan was sent more than once.")
    for reason, count in sorted(collector.matcher.foreign.items()):
        hint = ""
        if reason.startswith("session"):
            hint = f" (this plan with these originals has session {collector.schedule.session}: the plan or the images differ)"
        lines.append(f"{count} bursts were not of this plan: {reason}{hint}.")
    if collector.dropped:
        lines.append(f"{collector.dropped} images were not decoded, because decoding was too slow: receive the recording again.")
    if collector.failed:
        lines.append(f"{collector.failed} images could not be decoded or kept.")
    return lines
