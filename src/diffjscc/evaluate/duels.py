# SPDX-License-Identifier: GPL-3.0-or-later
"""Joint coding against separate coding, on the images that both could send: where it wins, and where it loses.

Means over different images cannot be compared: an image codec at its limit sends the easy ones only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Spec, Sweep

#: Systems that code source and channel jointly, and those that code them separately; "capacity" bounds the latter.
JOINT = ("deepjscc", "deepjscc-adv", "diffjscc", "ddnm")
SEPARATE = ("separate", "capacity")

#: Key of what is compared at one point: channel, rate, SNR in dB.
Point = tuple[str, str, float]


@dataclass(frozen=True)
class Duel:
    """Two systems at one point.

    joint, separate  their names in the sweep
    both             transmissions that both could send
    gain_db          mean PSNR of the joint system above that of the separate one over these; NaN where there are none
    only_joint, only_separate  transmissions that only one of them could send
    rows             transmissions in all
    """

    joint: str
    separate: str
    channel: str
    rate: str
    snr_db: float
    both: int
    gain_db: float
    only_joint: int
    only_separate: int
    rows: int

    @property
    def lost(self) -> bool:
        """Whether the joint system is worse where both can send."""
        return self.gain_db < 0


def duels(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[Duel]:
    """Every joint system against every separate one at every point, in the order of the sweep; none without PSNR."""
    if "psnr" not in sweep.metrics:
        return []
    found: dict[tuple[str, Point], dict[tuple[str, int], Mapping[str, Any]]] = {}
    for row in rows:
        key = row["system"], (row["channel"], row["rate"], row["snr_db"])
        found.setdefault(key, {})[row["image"], row["repeat"]] = row
    kinds = {name: _kind(spec) for name, spec in sweep.systems.items()}
    points = dict.fromkeys((point.channel, point.rate, point.snr_db) for point in sweep.points)
    made = []
    for joint in (name for name, kind in kinds.items() if kind in JOINT):
        for separate in (name for name, kind in kinds.items() if kind in SEPARATE):
            for point in points:
                first, second = found.get((joint, point), {}), found.get((separate, point), {})
                common = [(first[key], second[key]) for key in first if key in second]
                if common:
                    made.append(_duel(joint, separate, point, common))
    return made


def _duel(joint: str, separate: str, point: Point, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Duel:
    gains = [a["psnr_db"] - b["psnr_db"] for a, b in pairs if a["sent"] and b["sent"]]
    channel, rate, snr_db = point
    return Duel(
        joint,
        separate,
        channel,
        rate,
        snr_db,
        both=len(gains),
        gain_db=math.fsum(gains) / len(gains) if gains else math.nan,
        only_joint=sum(a["sent"] and not b["sent"] for a, b in pairs),
        only_separate=sum(b["sent"] and not a["sent"] for a, b in pairs),
        rows=len(pairs),
    )


def _kind(spec: Spec) -> str:
    return spec if isinstance(spec, str) else str(spec.get("system", ""))


def verdicts(made: Sequence[Duel]) -> list[str]:
    """One sentence a pair of systems: at how many points, and where, the joint one loses."""
    lines = []
    for joint, separate in dict.fromkeys((duel.joint, duel.separate) for duel in made):
        pair = [duel for duel in made if (duel.joint, duel.separate) == (joint, separate)]
        met = [duel for duel in pair if duel.both]
        lost = [duel for duel in met if duel.lost]
        if not met:
            lines.append(f"{joint} and {separate} can nowhere be compared: there is no image that both could send.")
            continue
        where = "; ".join(
            f"{-duel.gain_db:.2f} dB at rate {duel.rate}, {duel.snr_db:g} dB, {duel.channel} "
            f"({duel.both} of {duel.rows} transmissions, {duel.only_joint} that only {joint} could send)"
            for duel in lost
        )
        count = f"{len(lost)} of the {len(met)} points where both send something"
        lines.append(f"In PSNR {joint} loses to {separate} at {count}" + (f": by {where}." if lost else "."))
    return lines


def markdown_duels(made: Sequence[Duel]) -> str:
    """A Markdown table."""
    lines = ["| joint | separate | channel | rate | SNR, dB | both send | gain, dB | only joint sends |", "|---" * 8 + "|"]
    for duel in made:
        gain = "—" if math.isnan(duel.gain_db) else f"{duel.gain_db:+.2f}"
        cells = [duel.joint, duel.separate, duel.channel, duel.rate, f"{duel.snr_db:g}", f"{duel.both} of {duel.rows}", gain]
        lines.append("| " + " | ".join([*cells, str(duel.only_joint)]) + " |")
    return "\n".join(lines)
