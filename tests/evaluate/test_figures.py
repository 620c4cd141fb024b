# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's figures: their sweeps, and what is drawn of them."""

import csv
import math

import numpy as np
import pytest
from evaluate.toys import build
from PIL import Image

from diffjscc.cli import main
from diffjscc.evaluate.figures import FIGURES, draw, figure_sweep
from diffjscc.evaluate.plan import build_sweep
from diffjscc.evaluate.run import SweepRun
from diffjscc.evaluate.table import read_parquet


@pytest.fixture(scope="module")
def measured(images, tmp_path_factory):
    """A sweep with a cliff: (sweep, summary)."""
    sweep = build_sweep(
        {
            "systems": {"graceful": "toy", "cliff": {"system": "toy", "cliff_db": 5}},
            "rates": ["1/64", "1/16"],
            "snrs_db": [1, 7],
            "images": [str(images)],
            "metrics": ["psnr", "swd"],
        }
    )
    return sweep, SweepRun(sweep, tmp_path_factory.mktemp("figure"), 1, build=build).run().summary


@pytest.mark.parametrize("number", [3, 4])
def test_a_figure_is_drawn_as_png_and_pdf_with_the_table_behind_it(number, measured, tmp_path):
    lines = draw(number, *measured, tmp_path)
    # What could not be measured is said, and what stands in for it.
    assert lines == [
        "MS-SSIM was not measured: its panel is left out",
        "LPIPS (AlexNet) was not measured: SWD finest is drawn in its place",
        "FID was not measured: its panel is left out",
    ]
    pixels = np.asarray(Image.open(tmp_path / f"figure{number}.png").convert("RGB"))
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        # Both curves are there.
        assert (np.abs(pixels.astype(int) - colour).sum(2) < 12).sum() > 200
    assert (tmp_path / f"figure{number}.pdf").read_bytes().startswith(b"%PDF")
    with open(tmp_path / f"figure{number}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["share_sent"] for row in rows] == ["1", "1", "1", "1", "0", "1", "0", "1"]
    table = read_parquet(tmp_path / f"figure{number}.parquet")
    assert table[0]["psnr_db"] == measured[1][0]["psnr_db"] and math.isnan(table[4]["psnr_db"])


def test_the_same_table_gives_the_same_figure(measured, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw(3, *measured, tmp_path / name)
    for kind in ("png", "pdf", "csv", "parquet"):
        assert (tmp_path / "a" / f"figure3.{kind}").read_bytes() == (tmp_path / "b" / f"figure3.{kind}").read_bytes()


def test_without_any_of_its_metrics_a_figure_is_refused(measured, tmp_path):
    sweep, summary = measured
    empty = [{**row, "psnr_db": math.nan, "swd_finest": math.nan} for row in summary]
    with pytest.raises(ValueError, match="nothing was measured that this figure shows"):
        draw(3, sweep, empty, tmp_path)


def test_figures_have_the_papers_rates_snrs_and_repeats():
    paper = ["1/128", "1/64", "1/32", "1/16"]
    for number in FIGURES:
        sweep = figure_sweep(number)
        assert sweep.repeats == 5 and sweep.images == ["kodak/"]
        assert sweep.rates == (paper if number in (3, 6) else ["1/128"])
        assert sweep.snrs_db == ([1] if number in (3, 6) else [1, 4, 7, 10, 13])


def test_codec_and_refiner_are_those_that_are_asked_for():
    sweep = figure_sweep(3, ["some/"], codec="other", refiner="third", changes=["repeats=2"])
    codecs = {name: spec["codec"] for name, spec in sweep.systems.items() if "codec" in spec}
    assert set(codecs.values()) == {"other"} and len(codecs) == 2
    assert sweep.systems["DiffJSCC"]["refiner"] == "third" and sweep.repeats == 2 and sweep.images == ["some/"]


def test_the_bundled_refiner_is_drawn_over_its_one_step():
    assert [spec.get("steps", 0) for spec in figure_sweep(7).systems.values()] == [0, 1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("5 --out {out}", "argument 3|4|6|7: invalid choice: 5"),
        ("3", "the following arguments are required: --out"),
        ("3 --out {out}", "kodak/: no such file, folder or pattern"),
        ("3 --out {out} --images absent.png", "absent.png: no such file"),
        ("3 repeat=2 --out {out}", "no key is called 'repeat' (did you mean 'repeats'?)"),
        ("3 --out {out} --processes 0", "argument --processes: '0': expected a whole number from 1"),
        ("3 --out {out} --report {images} --images {images}", "is a folder: give the name of a file"),
        ("3 --out {out} --codec absent --images {images}", "systems.DeepJSCC: model 'absent' is neither a known name"),
        ("7 --out {out} --refiner absent --images {images}", "model 'absent' is neither a known name"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    try:
        status = main(["figures", *arguments.format(images=images, out=tmp_path / "sub" / "out").split()])
    except SystemExit as exit:
        status = exit.code
    errors = capsys.readouterr().err.splitlines()
    assert status == 2 and len(errors) == 1, errors
    assert message in errors[0]
    assert not (tmp_path / "sub" / "out").exists()
