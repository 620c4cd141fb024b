# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of every command, as its parser knows it, with values that cannot be: one line that names it, and exit code 2.

What a command does with values that fit their type is tested with the command.
"""

import argparse
from pathlib import Path

import pytest

from diffjscc import cli
from diffjscc.cli import main, options

#: What is no number, choice, rate, SNR or address of any option that has a type.
NO_VALUE = ["", "much", "nan", "0x10", "1e999", "\x00", "--"]

#: {option: values that every command refuses}, for options that take any text as far as their parser knows.
WRONG = {
    "--codec": ["absent", "mini", "FILE", "\x01"],
    "--refiner": ["absent", "FILE"],
    "--device": ["toaster", "cuda:99", "meta"],
    "--report": ["FOLDER"],
    "--images": ["absent.png", "FOLDER"],
    "--out": ["FILE", "FILE/folder"],
    "--data": ["absent", "FILE"],
    "--tracker": ["absent", "tensorbord"],
    "--name": ["a/b", "", ".."],
    "--ray": ["nowhere"],
    "--bind": ["nonsense", "tcp://127.0.0.1:99998"],
    "--keys": ["absent"],
    "--clients": ["absent"],
    "--split": ["val", ""],
    "--format": ["bmp", ""],
    "--lists": ["absent", "ftp://somewhere"],
    "--bucket": ["s3://bucket", "https://", ""],
}

#: Options whose every text means something, and those whose test loads a refiner or Ray: see test_options.py here and in evaluate.
NOT_HERE = {"--prompt", "--status-name", "--tokenizer", "--sampler", "--colour-fix", "--captioner", "--cluster"}

#: {command: arguments beside the option}. Where a value was taken, the command soon ends for another reason.
COMMANDS = {
    "simulate": "absent.png",
    "evaluate": "absent.png",
    "figures": "3 --out out --images absent/",
    "models import": "absent",
    "train": "codec-lite --data FOLDER --out out",
    "data openimages": "--lists nothing --out out",
    "serve": "--bind tcp://127.0.0.1:99999",
    "serve keygen": "FOLDER",
}

#: {(command, option): arguments with which the command comes as far as looking at the value}
WITH = {
    **{("simulate", option): "IMAGE" for option in ("--codec", "--device", "--refiner", "--out")},
    **{("evaluate", option): "IMAGE --snrs 1" for option in ("--codec", "--device", "--refiner")},
    **{("figures", option): "3 --out out --images IMAGE" for option in ("--codec", "--refiner")},
    ("figures", "--out"): "3 --images IMAGE",
    ("train", "--data"): "codec-lite --out out",
    **{("train", option): "codec-lite crop=64 --out out --data IMAGES" for option in ("--out", "--device", "--tracker")},
    ("data openimages", "--out"): "--lists FILE",
    ("serve", "--device"): "",
    ("serve", "--keys"): "--clients FOLDER",
    ("serve", "--clients"): "",
}


def parsers():
    """{command: its parser}, of those that have options."""
    top = options.OneLineParser(prog="diffjscc")
    commands = top.add_subparsers()
    for module in vars(cli).values():
        if hasattr(module, "add_command"):
            module.add_command(commands)

    def walk(parser, words):
        yield " ".join(words), parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    yield from walk(inner, (*words, name))

    return {words: parser for words, parser in walk(top, ()) if words}


def cases():
    """(command, option, values) of each option that takes a value. KeyError for one of any text that the table lacks."""
    for command, parser in parsers().items():
        for action in parser._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            if not option or action.nargs == 0 or option in NOT_HERE:
                continue
            typed = action.choices is not None or action.type not in (None, Path)
            yield command, option, NO_VALUE if typed and option not in WRONG else WRONG[option]


CASES = list(cases())


@pytest.fixture
def place(images, tmp_path, monkeypatch):
    """A folder to be in, no models of the user's, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("nothing")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "IMAGE").write_bytes((images / "coffee.png").read_bytes())
    (tmp_path / "IMAGES").symlink_to(images)


def said(arguments, capsys):
    """The one line on standard error of a command that ends with exit code 2."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    output = capsys.readouterr()
    assert code == 2, f"{arguments}: exit code {code}, {output.err}"
    # A training shows its progress bar before it makes its folder.
    lines = [line for line in output.err.splitlines() if line and not line.endswith("step/s]")]
    assert len(lines) == 1 and lines[0].startswith("diffjscc") and output.out == "", f"{arguments}: {output}"
    return lines[0]


@pytest.mark.parametrize(("command", "option", "values"), CASES, ids=[f"{command} {option}" for command, option, _ in CASES])
def test_a_wrong_value_is_one_line_that_names_it(place, command, option, values, capsys):
    others = WITH.get((command, option), COMMANDS[command]).split()
    for value in values:
        line = said([*command.split(), *others, f"{option}={value}"], capsys)
        assert option in line or option.strip("-").replace("-", " ") in line or value and value in line, line
