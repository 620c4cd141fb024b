# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of `diffjscc serve` that make no sense: one line, exit 2, and nothing is started."""

import pytest

from diffjscc.cli import main
from diffjscc.serve import keys
from diffjscc.serve.backend import LocalBackend
from diffjscc.serve.engine import Engine
from diffjscc.serve.server import Server


def exit_status(arguments):
    """Of the command, whether its options are refused by the parser or by the library."""
    try:
        return main(arguments)
    except SystemExit as exit:
        return exit.code


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--threads 0", "argument --threads: '0': expected a whole number from 1 to 1024"),
        ("--threads -2", "argument --threads: '-2': expected a whole number from 1"),
        ("--threads two", "argument --threads: 'two': expected a whole number from 1"),
        ("--threads 1.5", "argument --threads: '1.5': expected a whole number from 1"),
        ("--memory 0", "argument --memory: '0': expected a number above 0"),
        ("--memory -1", "argument --memory: '-1': expected a number above 0"),
        ("--memory nan", "argument --memory: 'nan': expected a number above 0"),
        ("--max-queue 0", "argument --max-queue: '0': expected a whole number from 1"),
        ("--max-queue -5", "argument --max-queue: '-5': expected a whole number from 1"),
        ("--max-batch 0", "argument --max-batch: '0': expected a whole number from 1"),
        ("--max-batch -1", "argument --max-batch: '-1': expected a whole number from 1"),
        ("--batch-window -1", "argument --batch-window: '-1': expected a number from 0 to 10000"),
        ("--batch-window 10001", "argument --batch-window: '10001': expected a number from 0 to 10000"),
        ("--keep -5", "argument --keep: '-5': expected a number from 0"),
        ("--keep inf", "argument --keep: 'inf': expected a number from 0"),
        ("--drain -1", "argument --drain: '-1': expected a number from 0 to 86400"),
        ("--drain nan", "argument --drain: 'nan': expected a number from 0 to 86400"),
        ("--watchdog 0", "argument --watchdog: '0': expected a number above 0"),
        ("--log xml", "argument --log: invalid choice: 'xml'"),
        ("--workers ray --count 0", "argument --count: '0': expected a whole number from 1"),
        ("--workers ray --count -1", "argument --count: '-1': expected a whole number from 1"),
        ("--workers many", "argument --workers: invalid choice: 'many'"),
        ("--count 2", "--count and --ray are options of --workers ray"),
        ("--ray auto", "--count and --ray are options of --workers ray"),
        ("--workers ray --device cuda:1", "choose cpu, or cuda for a GPU that Ray chooses"),
        ("--device gpu", "device 'gpu' is unknown to torch"),
        ("--status 9155", "argument --status: '9155': expected HOST:PORT"),
        ("--status 127.0.0.1:http", "argument --status: '127.0.0.1:http': expected HOST:PORT"),
        ("--status 127.0.0.1:99999", "argument --status: '127.0.0.1:99999': expected HOST:PORT"),
        ("--bind tcp://127.0.0.1:99999", "port 99999 does not exist"),
        ("--bind tcp://0.0.0.0:5599", "can be reached from other machines: give keys"),
        ("--refiner absent", "model 'absent' is neither a known name"),
        ("--no-such-option", "unrecognized arguments: --no-such-option"),
        ("keygen", "the following arguments are required: DIR"),
        ("keygen . --name ../x", "key name '../x'"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line_and_exit_2(arguments, message, capsys):
    free = [] if "keygen" in arguments else ["--bind", "tcp://127.0.0.1:*", "--status", "none"]
    assert exit_status(["serve", *free, *arguments.split()]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffjscc")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep": -1}, "keep = -1: must be at least 0"),
        ({"drain": -1.0}, "drain = -1"),
        ({"drain": float("inf")}, "drain = inf"),
        ({"watchdog": 0.0}, "watchdog = 0.0: must be above 0"),
    ],
)
def test_the_library_refuses_them_too(options, message):
    class Nothing:
        refiners, memory = ("none",), dict

    with pytest.raises(ValueError, match=message):
        Server(LocalBackend(Nothing()), "tcp://127.0.0.1:*", **options)


def test_an_engine_without_threads_is_refused():
    with pytest.raises(ValueError, match="threads = 0: must be at least 1"):
        Engine(["mini"], threads=0)


def test_check_refines_an_image_and_says_so(tmp_path, capsys):
    keys.generate(tmp_path / "server")
    keys.generate(tmp_path / "clients", "radio")
    secure = ["--bind", "tcp://0.0.0.0:5599", "--keys", str(tmp_path / "server"), "--clients", str(tmp_path / "clients")]
    assert main(["serve", "--check", *secure]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "keys: 1 clients may connect" and lines[1].startswith("mini: an image of 128×128 was refined in ")
    assert main(["serve", "--check", *secure, "--refiner", "absent"]) == 2
    assert main(["serve", "--check", "--bind", "tcp://0.0.0.0:5599"]) == 2
