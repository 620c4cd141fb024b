# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as a person or a script runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from diffjscc.cli import main
from diffjscc.images import read_image


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "diffjscc.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", [(), ("simulate",), ("models",), ("evaluate",), ("train",), ("train", "codec-lite")])
def test_every_command_explains_itself(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: diffjscc")


def test_help_imports_nothing_that_takes_long():
    code = """
import sys
from diffjscc.cli import main
try:
    main(["--help"])
except SystemExit:
    slow = {"torch", "diffusers", "transformers", "zmq", "PIL", "tqdm", "prometheus_client", "yaml"} & set(sys.modules)
    sys.exit(", ".join(slow) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_simulate_writes_what_was_received_and_reports_it(tmp_path, images, capsys):
    arguments = ["simulate", str(images), "--rate", "1/32", "--snr", "7", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["symbols"] for r in results] == [160 * 224 // 32] * 3
    for result in results:
        received = read_image(result["received"])
        original = read_image(result["image"])
        assert received.shape == original.shape
        error = np.mean((received / 255 - original / 255) ** 2)
        assert result["psnr_db"] == pytest.approx(-10 * np.log10(error), abs=0.1)
        assert result["psnr_db"] > 17
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == results


def test_simulate_prints_a_line_an_image(tmp_path, images, capsys):
    assert main(["simulate", str(images / "coffee.png"), "--channel", "rayleigh", "--out", str(tmp_path)]) == 0
    assert "coffee.png: 280 symbols, PSNR" in capsys.readouterr().out


def test_simulate_with_effort_gives_a_better_image(tmp_path, images, capsys):
    arguments = ["simulate", str(images / "coffee.png"), "--rate", "1/16", "--snr", "13", "--out", str(tmp_path), "--json"]
    scores = []
    for effort in ("0", "6"):
        assert main([*arguments, "--effort", effort]) == 0
        scores.append(json.loads(capsys.readouterr().out)[0]["psnr_db"])
    assert scores[1] > scores[0] + 0.1


def test_a_bad_image_among_good_ones_costs_only_itself(tmp_path, images, capsys):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    assert main(["simulate", str(tmp_path / "bad.png"), str(images / "coffee.png"), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "bad.png: not an image" in captured.err
    assert "coffee.png: 280 symbols" in captured.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("simulate", "x.png", "--snr", "nan"), "snr_db = nan is not an SNR"),
        (("simulate", "x.png", "--rate", "1/3"), "whole number of symbols"),
        (("simulate", "x.png", "--rate", "1/256"), "rate 1/256 is not one that codec 'lite' has"),
        (("simulate", "x.png", "--effort", "-1"), "'-1': expected a whole number from 0 to 10000"),
        (("evaluate", "x.png", "--effort", "2.5"), "'2.5': expected a whole number from 0 to 10000"),
        (("simulate", "absent.png"), "absent.png: no such file"),
        (("simulate", "x.png", "--codec", "absent"), "neither a known name"),
        (("evaluate", "absent/"), "no such file"),
        (("train", "codec-lite", "--data", "absent", "--out", "x"), "absent: no such folder"),
        (("train", "codec-lite", "--data", ".", "crop=100", "--out", "x", "batch=2"), "crop = 100: must be a multiple of 16"),
        (("train", "codec-lite", "--crop", "100"), "unrecognized arguments: --crop"),
        (("simulate", "x.png", "--out", "x", "batch=2"), "unrecognized arguments: batch=2"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_models_lists_the_bundled_codec(capsys):
    assert main(["models"]) == 0
    assert "lite         codec lite, rates 1/128, 1/64, 1/32, 1/16, SNR -5.0 … 20.0 dB" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert "lite" in [entry["name"] for entry in json.loads(capsys.readouterr().out)]


def test_evaluate_prints_a_table_that_rises_with_rate_and_snr(images, capsys):
    assert main(["evaluate", str(images), "--rates", "1/128", "1/16", "--snrs", "1", "13", "--json"]) == 0
    points = {(p["rate"], p["snr_db"]): p["psnr_db"] for p in json.loads(capsys.readouterr().out)}
    assert points["1/16", 13.0] > points["1/16", 1.0] > points["1/128", 1.0]
    assert points["1/16", 13.0] > points["1/128", 13.0] > points["1/128", 1.0]
    assert main(["evaluate", str(images / "coffee.png"), "--rates", "1/64", "--snrs", "4"]) == 0
    assert capsys.readouterr().out.startswith("| rate | 4 dB |\n|---|---|\n| 1/64 | ")


def test_a_reader_that_has_read_enough_is_no_error():
    done = subprocess.run(f"{sys.executable} -m diffjscc.cli models | true", shell=True, capture_output=True, text=True)
    assert done.stderr == ""
