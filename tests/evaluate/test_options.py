# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of `diffjscc evaluate` that make no sense: one line, exit 2."""

import json
import signal
import subprocess
import sys
import time

import pytest

from diffjscc.cli import main
from diffjscc.evaluate.table import read_parquet


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "the following arguments are required: SWEEP.yaml | IMAGE"),
        ("absent/", "absent/: no such file"),
        ("{images} --rates 1/3", "argument --rates: rate 1/3 is not a whole number of symbols"),
        ("{images} --rates 1/256", "rate 1/256 is not one that codec 'lite' has"),
        ("{images} --snrs loud", "argument --snrs: snr_db = loud is not an SNR"),
        ("{images} --snrs 1 nan", "argument --snrs: snr_db = nan is not an SNR"),
        ("{images} --passes 0", "argument --passes: '0': expected a whole number from 1"),
        ("{images} --passes -3", "argument --passes: '-3': expected a whole number from 1"),
        ("{images} --passes 1.5", "argument --passes: '1.5': expected a whole number from 1"),
        ("{images} --channel fog", "argument --channel: invalid choice: 'fog'"),
        ("{images} --erasures -0.1", "argument --erasures: '-0.1': expected a number from 0 to 1"),
        ("{images} --erasures 2", "argument --erasures: '2': expected a number from 0 to 1"),
        ("{images} --seed -1", "argument --seed: '-1': expected a whole number from 0"),
        ("{images} --codec absent", "model 'absent' is neither a known name"),
        ("{images} --device gpu", "device 'gpu' is unknown to torch"),
        ("{images} --refiner absent", "model 'absent' is neither a known name"),
        ("{images} --refiner mini --snrs 1 4", "--refiner measures at one SNR: give --snrs 1 alone"),
        ("{images} --refiner mini --passes 2", "--refiner measures one pass over AWGN"),
        ("{images} --refiner mini --channel rayleigh", "--refiner measures one pass over AWGN"),
        ("{images} --refiner mini --steps 0", "argument --steps: '0': expected a whole number from 1"),
        ("{images} --refiner mini --strength 0", "argument --strength: '0': expected a number above 0"),
        ("{images} --out results", "--out is an option of sweeps"),
        ("{images} --report a.html", "--report is an option of sweeps"),
        ("absent.yaml", "sweep 'absent.yaml' is no file"),
        ("figure3 --rates 1/16", "--rates is no option of sweeps: change the sweep instead, such as snrs_db=[1,13]"),
        ("figure3 --seed 1", "--seed is no option of sweeps"),
        ("figure3 images=absent/", "absent/: no such file"),
        ("figure3 images={images} channels=awgm", "channels: no 'awgm' (did you mean 'awgn'?)"),
        ("figure3 images={images} systems=[depjscc]", "no system is called 'depjscc' (did you mean 'deepjscc'?)"),
        ("figure3 images={images} systems=[deepjscc] rates=1/256", "systems.deepjscc: no rate 1/256; its codec has 1/128"),
        ("figure3 images={images} metrics=[psnrr]", "metrics: no 'psnrr' (did you mean 'psnr'?)"),
        ("figure3 images={images} systems=[deepjscc] --cluster nowhere", "cannot reach a Ray cluster at nowhere: "),
        ("{images} --steps 4", "--steps is an option of refining: give --refiner too"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line_and_exit_2(arguments, message, images, capsys):
    try:
        status = main(["evaluate", *arguments.format(images=images).split()])
    except SystemExit as exit:
        status = exit.code
    errors = capsys.readouterr().err.splitlines()
    assert status == 2 and len(errors) == 1
    assert message in errors[0]


def test_a_sweep_from_the_command_line(images, tmp_path, capsys, monkeypatch):
    """A file, changes, a table, a report, and nothing to do the second time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("systems: [deepjscc]\nrates: 1/128\nsnrs_db: [1, 13]\nimages: none/\nmetrics: [psnr]\n")
    arguments = ["evaluate", "my.yaml", f"images={images}", "--processes", "2", "--report", "my.html"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert lines[0] == "| system | channel | rate | SNR, dB | sent | PSNR, dB |"
    assert [line.split(" | ")[:5] for line in lines[2:]] == [["| deepjscc", "awgn", "1/128", snr, "3 of 3"] for snr in ("1", "13")]
    rows = read_parquet("my/table.parquet")
    assert len(rows) == 6 and all(row["psnr_db"] > 15 for row in rows)
    assert (tmp_path / "my.html").stat().st_size > 50_000
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary[1]["psnr_db"] > summary[0]["psnr_db"] and summary[0]["sent"] == 3
    # As the short form measures, but for the rounding to 8 bits.
    assert main(["evaluate", str(images), "--rates", "1/128", "--snrs", "1", "13", "--json"]) == 0
    for short, long in zip(json.loads(capsys.readouterr().out), summary):
        assert short["psnr_db"] == pytest.approx(long["psnr_db"], abs=0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_writes_the_tables_of_what_is_finished(number, images, tmp_path):
    changes = ["systems=[deepjscc]", f"images={images}", "metrics=[psnr]", "repeats=500"]
    command = [sys.executable, "-m", "diffjscc.cli", "evaluate", "figure3", *changes, "--out", tmp_path / "out", "--processes", "1"]

    def listen():
        # A job in a shell's background has SIGINT ignored, and so have its children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    journal = tmp_path / "out" / "journal.jsonl"
    deadline = time.monotonic() + 100
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.splitlines()[-1] == "diffjscc: interrupted"
    rows = read_parquet(tmp_path / "out" / "table.parquet")
    assert 0 < len(rows) == len(journal.read_text().splitlines()) < 1000
