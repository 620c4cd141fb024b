# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's figures 3, 4, 6 and 7, drawn from sweeps with the models at hand."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import extra, one_line
from .journal import write_whole
from .plan import Spec, Sweep, load_sweep
from .table import HEADINGS, LOWER_IS_BETTER, write_csv, write_parquet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that people with any colour vision tell apart (Okabe and Ito, 2008), and marks.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7b61c4")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "h")

#: What is drawn where the weights of the metric's network are missing.
STAND_INS = {"lpips_alex": "swd_finest", "fid": "niqe"}

#: Systems that have a codec, and those that have a refiner.
WITH_CODEC, WITH_REFINER = ("deepjscc", "diffjscc", "ddnm"), ("diffjscc",)


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper.

    sweep    name of its sweep
    title    what it shows
    x        "rate", "snr_db" or "steps"
    columns  one panel each
    """

    sweep: str
    title: str
    x: str
    columns: tuple[str, ...]


FIGURES = {
    3: PaperFigure("figure3", "Quality over rate at 1 dB", "rate", ("psnr_db", "ms_ssim", "lpips_alex", "fid")),
    4: PaperFigure("figure4", "Quality over SNR at rate 1/128", "snr_db", ("psnr_db", "ms_ssim", "lpips_alex", "fid")),
    6: PaperFigure("figure6", "What the refiner is told: image, SNR, text", "rate", ("lpips_alex", "fid")),
    7: PaperFigure("figure7", "Steps of the sampler at rate 1/128", "steps", ("lpips_alex", "fid")),
}

X_LABELS = {"rate": "rate, channel uses per pixel", "snr_db": "SNR, dB", "steps": "sampling steps"}


def figure_sweep(number: int, images: Sequence[str] = (), codec: str = "", refiner: str = "", changes: Sequence[str] = ()) -> Sweep:
    """The sweep of a figure, with other images, codec or refiner where they are given.

    Of figure 7, a refiner that takes one number of steps only keeps that one.
    Raises ValueError as `load_sweep` does, and for a refiner that does not exist.
    """
    sweep = load_sweep(FIGURES[number].sweep, changes)
    systems: dict[str, Spec] = {}
    for name, spec in sweep.systems.items():
        options = {"system": spec} if isinstance(spec, str) else dict(spec)
        if codec and options.get("system") in WITH_CODEC:
            options["codec"] = codec
        if refiner and options.get("system") in WITH_REFINER:
            options["refiner"] = refiner
        systems[name] = options
    if FIGURES[number].x == "steps":
        systems = _possible_steps(systems)
    return replace(sweep, systems=systems, images=list(images) or sweep.images)


def _possible_steps(systems: Mapping[str, Any]) -> dict[str, Any]:
    from ..hub import DEFAULT_REFINER, load_refiner

    kept = {}
    for name, options in systems.items():
        if "steps" in options:
            refiner = load_refiner(options.get("refiner", DEFAULT_REFINER))
            if refiner.is_flow and options["steps"] != refiner.defaults["num_inference_steps"]:
                continue
        kept[name] = options
    return kept


def draw(number: int, sweep: Sweep, summary: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """Writes out/figureN.png and .pdf, and the table behind them as .csv and .parquet.

    Returns lines about panels that could not be drawn as in the paper. Raises ValueError where nothing can be written.
    """
    with extra("evaluate", "diffjscc figures"):
        from matplotlib.figure import Figure

    figure = FIGURES[number]
    lines, columns = _panels(figure, summary)
    curves = _curves(figure.x, sweep, summary)
    partly = any(row["rows"] and row["share_sent"] < 1 for row in summary)
    width = 2 if len(columns) > 1 else 1
    rows = math.ceil(len(columns) / width)
    ratios = [1.0] * rows + ([0.45] if partly else [])
    sheet = Figure(figsize=(5.2 * width, 3.7 * sum(ratios) + 0.9), layout="constrained")
    grid = sheet.add_gridspec(len(ratios), width, height_ratios=ratios)
    for index, column in enumerate(columns):
        axes = sheet.add_subplot(grid[index // width, index % width])
        _draw_panel(axes, figure.x, curves, column, summary)
    if partly:
        axes = sheet.add_subplot(grid[rows, :])
        _draw_panel(axes, figure.x, curves, "share_sent", summary)
    handles, labels = sheet.axes[0].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    times = f"{sweep.repeats} transmissions" if sweep.repeats > 1 else "one transmission"
    images = max((row["rows"] for row in summary), default=0) // sweep.repeats
    sheet.suptitle(f"{figure.title} ({times} of each of {images} images)", fontsize=11)
    for kind, options in (("png", {"dpi": 150}), ("pdf", {"metadata": {"CreationDate": None}})):
        file = io.BytesIO()
        sheet.savefig(file, format=kind, **options)
        try:
            write_whole(out / f"figure{number}.{kind}", file.getvalue())
        except OSError as error:
            raise ValueError(f"{out}: cannot be written ({one_line(error.strerror or error)})") from None
    write_csv(out / f"figure{number}.csv", summary)
    write_parquet(out / f"figure{number}.parquet", summary)
    return lines


def _panels(figure: PaperFigure, summary: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(lines about stand-ins, columns to be drawn)."""
    lines, columns = [], []
    for column in figure.columns:
        if _measured(column, summary):
            columns.append(column)
        elif _measured(STAND_INS.get(column, ""), summary):
            stand_in = STAND_INS[column]
            lines.append(f"{HEADINGS[column][0]} was not measured: {HEADINGS[stand_in][0]} is drawn in its place")
            columns.append(stand_in)
        else:
            lines.append(f"{HEADINGS[column][0]} was not measured: its panel is left out")
    if not columns:
        raise ValueError("nothing was measured that this figure shows: no row, or no metric of it")
    return lines, columns


def _measured(column: str, summary: Sequence[Mapping[str, Any]]) -> bool:
    return any(math.isfinite(row.get(column, math.nan)) for row in summary)


@dataclass(frozen=True)
class _Curve:
    name: str
    points: list[tuple[float, Mapping[str, Any]]]


def _curves(x: str, sweep: Sweep, summary: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    """One curve a system and channel; over steps, one an SNR."""
    name: Callable[[Mapping[str, Any]], str]
    if x == "steps":
        steps = {system: spec.get("steps", 0) for system, spec in sweep.systems.items()}
        name, value = lambda row: f"{row['snr_db']:g} dB", lambda row: float(steps[row["system"]])
    else:
        name = lambda row: f"{row['system']}, {row['channel']}" if len(sweep.channels) > 1 else row["system"]  # noqa: E731
        value = lambda row: math.log2(row["rate_value"]) if x == "rate" else row["snr_db"]  # noqa: E731
    curves: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in summary:
        if row["rows"]:
            curves.setdefault(name(row), []).append((value(row), row))
    return [_Curve(name, sorted(points, key=lambda point: point[0])) for name, points in curves.items()]


def _draw_panel(axes: Axes, x: str, curves: Sequence[_Curve], column: str, summary: Sequence[Mapping[str, Any]]) -> None:
    for index, curve in enumerate(curves):
        colour, mark = COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)]
        values = [row[column] for _, row in curve.points]
        places = [place for place, _ in curve.points]
        axes.plot(places, values, color=colour, marker=mark, markersize=5, linewidth=1.6, label=curve.name)
        if column == "share_sent":
            continue
        for place, row in curve.points:
            if row["share_sent"] == 0:
                # At the lower edge, whatever the values are.
                axes.plot(place, 0.03, "x", color=colour, markersize=7, transform=axes.get_xaxis_transform(), clip_on=False)
            elif row["share_sent"] < 1:
                axes.plot(place, row[column], mark, color=colour, markersize=5, markerfacecolor="white", zorder=3)
                axes.annotate(
                    f"{100 * row['share_sent']:.0f} %",
                    (place, row[column]),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                    color=colour,
                )
    originals = [row["niqe_original"] for row in summary if math.isfinite(row.get("niqe_original", math.nan))]
    if column == "niqe" and originals:
        axes.axhline(sum(originals) / len(originals), color="#777777", linestyle="--", linewidth=1)
        axes.annotate("originals", (1, sum(originals) / len(originals)), (-4, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", fontsize=8, color="#777777")  # fmt: skip
    arrow = "↓" if column in LOWER_IS_BETTER else "↑"
    axes.set_ylabel("share of images sent" if column == "share_sent" else f"{HEADINGS[column][0]} {arrow}")
    if column == "share_sent":
        axes.set_ylim(-0.06, 1.06)
    axes.set_xlabel(X_LABELS[x])
    places = sorted({place for curve in curves for place, _ in curve.points})
    if x == "rate":
        axes.set_xticks(places, [str(Fraction(2**place).limit_denominator(4096)) for place in places])
    elif x == "steps":
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(places, [f"{place:g}" for place in places])
    else:
        axes.set_xticks(places)
    axes.grid(alpha=0.3)
