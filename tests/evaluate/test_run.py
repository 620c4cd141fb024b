# SPDX-License-Identifier: GPL-3.0-or-later
"""Sweeps that run to the end, are killed, lose workers, and are asked for nonsense."""

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluate.toys import build

from diffjscc.evaluate.plan import build_sweep, load_sweep
from diffjscc.evaluate.run import Progress, SweepRun
from diffjscc.evaluate.table import read_parquet
from diffjscc.packaged import packaged_names

TABLES = ("table.parquet", "summary.parquet", "summary.csv")


def a_sweep(folder, **changes):
    values = {
        "systems": ["toy"],
        "rates": ["1/64", "1/16"],
        "snrs_db": [1, 7],
        "images": [str(folder)],
        "repeats": 2,
        "metrics": ["psnr"],
    }
    return build_sweep({**values, **changes})


def contents(folder):
    return [(Path(folder) / name).read_bytes() for name in TABLES]


class Lines(Progress):
    def __init__(self):
        self.lines = []
        self.rows = 0

    def begin(self, rows, finished):
        self.begun = rows, finished

    def row(self):
        self.rows += 1

    def fail(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A sweep run at one go, in one process."""
    out = tmp_path_factory.mktemp("whole")
    return out, SweepRun(a_sweep(images), out, 1, build=build).run()


def test_every_transmission_has_a_row_with_its_seed_versions_and_measures(whole):
    out, results = whole
    rows = read_parquet(out / "table.parquet")
    assert rows == results.rows and len(rows) == 2 * 2 * 3 * 2
    keys = [(r["system"], r["channel"], r["rate"], r["snr_db"], r["image"], r["repeat"]) for r in rows]
    assert len(set(keys)) == len(keys)
    assert [r["seed"] for r in rows[:6]] == [0, 1, 2, 3, 4, 5]
    first = rows[0]
    assert first["image"] == "astronaut.png" and (first["width"], first["height"]) == (224, 160)
    # 14 × 10 blocks of 16 pixels, 8 real channels: 4 symbols a block.
    assert first["budget"] == first["channel_uses"] == 14 * 10 * 4
    assert first["torch"] and first["diffjscc"] and len(first["image_sha256"]) == 64
    assert json.loads(first["details"]) == {"blocks": 3, "seed": 0}
    times = read_parquet(out / "times.parquet")
    assert len(times) == len(rows) and all(t["send_seconds"] >= 0 and t["host"] for t in times)
    # Means by hand.
    summary = read_parquet(out / "summary.parquet")
    psnr = [r["psnr_db"] for r in rows[:6]]
    assert summary[0]["psnr_db"] == pytest.approx(sum(psnr) / 6) and summary[0]["share_sent"] == 1
    assert summary[0]["psnr_db"] < summary[1]["psnr_db"] < summary[3]["psnr_db"]


def test_the_table_is_the_same_however_many_processes_made_it(whole, images, tmp_path):
    SweepRun(a_sweep(images), tmp_path, 3, build=build).run()
    assert contents(tmp_path) == contents(whole[0])


def test_killed_at_random_moments_it_gives_the_same_table(images, tmp_path):
    """tests/bench/sweep_kills.py does it 20 times, with the sweep of figure 3."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"systems: {{toy: {{system: toy, seconds: 0.1}}}}\nrates: [1/64, 1/16]\nsnrs_db: [1, 7]\nimages: {images}\n"
        "repeats: 5\nmetrics: [psnr]\n"
    )
    SweepRun(load_sweep(sweep), tmp_path / "whole", 2, build=build).run()
    command = [sys.executable, Path(__file__).with_name("kill_sweep.py"), sweep, tmp_path / "killed"]
    rng, journal = random.Random(0), tmp_path / "killed" / "journal.jsonl"

    def size():
        return journal.stat().st_size if journal.exists() else 0

    for kill in range(2):
        process = subprocess.Popen([*command, "2"], stdout=subprocess.PIPE, text=True)
        wanted = size() + [1, 3000][kill]
        deadline = time.monotonic() + 60
        while size() < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.communicate()
    finished = [json.loads(line)["cell"] for line in journal.read_bytes().splitlines() if line.endswith(b"}")]
    assert len(set(finished)) == len(finished) and 5 < len(finished) < 60
    done = subprocess.run([*command, "2"], capture_output=True, text=True)
    assert done.stdout == "complete\n", done.stderr
    finished = [json.loads(line)["cell"] for line in journal.read_bytes().splitlines()]
    assert sorted(finished) == list(range(60))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_line_cut_short_is_computed_again_and_finished_ones_are_not(whole, images, tmp_path):
    SweepRun(a_sweep(images), tmp_path, 1, build=build).run()
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    # The last line is cut short, one in the middle is damaged.
    lines[4] = lines[4].replace(b'"cell"', b'"c\xff')
    journal.write_bytes(b"".join(lines)[:-20])
    progress = Lines()
    SweepRun(a_sweep(images), tmp_path, 1, build=build, progress=progress).run()
    assert progress.begun == (24, 22) and progress.rows == 2
    assert contents(tmp_path) == contents(whole[0])


def test_what_cannot_be_sent_has_a_row_and_is_in_no_mean(images, tmp_path):
    sweep = a_sweep(images, systems={"toy": {"system": "toy", "cliff_db": 5}})
    results = SweepRun(sweep, tmp_path, 1, build=build).run()
    low, high = results.summary[:2]
    assert (low["rows"], low["sent"], low["share_sent"]) == (6, 0, 0) and math.isnan(low["psnr_db"])
    assert (high["rows"], high["sent"], high["share_sent"]) == (6, 6, 1) and high["psnr_db"] > 10
    assert sum(not row["sent"] for row in results.rows) == 12


def test_a_worker_that_dies_once_is_replaced_and_the_table_is_whole(whole, images, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    for seed in (1, 4):
        (deaths / str(seed)).write_text("1")
    sweep = a_sweep(images, systems={"toy": {"system": "toy", "deaths": str(deaths)}})
    progress = Lines()
    results = SweepRun(sweep, tmp_path / "out", 2, build=build, progress=progress).run()
    assert results.failures == progress.lines == [] and not list(deaths.iterdir())
    assert [row["psnr_db"] for row in results.rows] == [row["psnr_db"] for row in whole[1].rows]


def test_a_worker_that_dies_twice_is_reported_with_its_cell_and_the_other_rows_stay(whole, images, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    (deaths / "3").write_text("2")
    sweep = a_sweep(images, systems={"toy": {"system": "toy", "deaths": str(deaths)}})
    progress = Lines()
    results = SweepRun(sweep, tmp_path / "out", 1, build=build, progress=progress).run()
    assert progress.lines == results.failures
    assert results.failures == ["toy, awgn, rate 1/64, 1 dB, chelsea.png, repeat 1: its worker died 2 times (SIGKILL)"]
    assert len(results.rows) == 23 and progress.rows == 24
    # The next run tries it again.
    results = SweepRun(sweep, tmp_path / "out", 1, build=build).run()
    assert len(results.rows) == 24 and not results.failures
    assert [row["psnr_db"] for row in results.rows] == [row["psnr_db"] for row in whole[1].rows]


def test_an_error_of_a_system_is_one_line_and_other_systems_go_on(images, tmp_path):
    sweep = a_sweep(images, systems={"bad": {"system": "toy", "fails": True}, "toy": "toy"}, rates="1/16", snrs_db=7, repeats=1)
    results = SweepRun(sweep, tmp_path, 1, build=build).run()
    assert results.failures[0] == "bad, awgn, rate 1/16, 7 dB, astronaut.png, repeat 0: out of order"
    assert len(results.failures) == len(results.rows) == 3


def test_a_sweep_that_changed_is_refused(whole, images, tmp_path):
    with pytest.raises(ValueError, match=r"holds rows of another sweep \(snrs_db differ\): give another --out"):
        SweepRun(a_sweep(images, snrs_db=[1, 4]), whole[0], 1, build=build)
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(ValueError, match="has rows but no sweep.json"):
        SweepRun(a_sweep(images), tmp_path, 1, build=build)


def test_two_runs_do_not_fill_one_folder(images, tmp_path):
    run = SweepRun(a_sweep(images), tmp_path, 1, build=build)
    with pytest.raises(ValueError, match="another process is filling this folder"):
        SweepRun(a_sweep(images), tmp_path, 1, build=build)
    run.run()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"snrs": [1]}, "no key is called 'snrs' (did you mean 'snrs_db'?)"),
        ({"systems": ["tou"]}, "systems.tou: no system is called 'tou' (did you mean 'toy'?)"),
        ({"systems": [{"system": "toy"}]}, "write `NAME: {system: …}`"),
        ({"systems": []}, "systems"),
        ({"systems": 3}, "systems = 3: expected a mapping"),
        ({"systems": {"toy": {"system": "toy", "rates": ["1/16"]}}}, "systems.toy: no rate 1/64; its codec has 1/16"),
        ({"rates": ["1/100"]}, "rate 1/100 is not a whole number of symbols"),
        ({"rates": ["1/16", "2/32"]}, "rates"),
        ({"snrs_db": ["loud"]}, "snrs_db = ['loud']: expected a list of numbers"),
        ({"snrs_db": [1, 200]}, "from -100 to 100 dB"),
        ({"snrs_db": []}, "a list with at least one entry"),
        ({"channels": ["awgm"]}, "channels: no 'awgm' (did you mean 'awgn'?)"),
        ({"metrics": ["psnr", "lpips"]}, "metrics: no 'lpips' (did you mean 'lpips-"),
        ({"images": ["absent.png"]}, "absent.png: no such file"),
        ({"metrics_weights": "absent"}, "metrics_weights: no folder is called absent"),
        ({"repeats": 0}, "repeats = 0: must be at least 1"),
        ({"repeats": 10**9}, "a sweep may have 10000000"),
        ({"seed": -1}, "seed = -1"),
        ({"report_images": 1.5}, "report_images = 1.5: expected a whole number"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_in_one_line_before_anything_is_made(changes, message, images, tmp_path):
    with pytest.raises(ValueError) as error:
        SweepRun(a_sweep(images, **changes), tmp_path / "out", 1, build=build)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("rates: [", "no YAML file"),
        ("", "expected keys and values"),
        ("- 1", "expected keys and values"),
        ("rates: [1/16]", "systems, snrs_db, images must be given"),
        ("a: &a [*a]", "no key is called 'a'"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match="sweep.yaml") as error:
        load_sweep(tmp_path / "sweep.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no name \(did you mean 'figure3'\?\)"):
        load_sweep("figur3")


def test_images_of_the_same_name_are_refused(images, tmp_path):
    (tmp_path / "chelsea.png").write_bytes((images / "astronaut.png").read_bytes())
    with pytest.raises(ValueError, match="two are called chelsea.png"):
        SweepRun(a_sweep(images, images=[str(images), str(tmp_path / "chelsea.png")]), tmp_path / "out", 1, build=build)


def test_every_sweep_of_the_package_is_valid():
    assert {"figure3", "figure4", "figure6", "figure7"} <= set(packaged_names("sweeps"))
    for name in packaged_names("sweeps"):
        assert load_sweep(name).points
