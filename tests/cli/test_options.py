# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of `diffjscc simulate` and `diffjscc models` with a wrong value: one line that names it, and exit code 2."""

import json

import pytest

from diffjscc.cli import main
from diffjscc.images import read_image

#: Arguments, with IMAGE and FILE for an image and a file that is none, and what the line says.
WRONG = [
    ("simulate", "the following arguments are required: IMAGE"),
    ("simulate absent.png", "absent.png: no such file, folder or pattern"),
    ("simulate *.nothing", "*.nothing: no such file, folder or pattern"),
    ("simulate FILE", "not an image that Pillow can read"),
    ("simulate .", ".: no images in this folder"),
    ("simulate IMAGE --rate fast", "--rate: rate 'fast' is not a number: write it as a fraction, such as 1/128"),
    ("simulate IMAGE --rate 1/0", "--rate: rate '1/0' is not a number"),
    ("simulate IMAGE --rate -1/128", "--rate"),
    ("simulate IMAGE --rate 1e999999999", "--rate: rate '1e999999999' is not a number"),
    ("simulate IMAGE --rate 1/3", "--rate: rate 1/3 is not a whole number of symbols"),
    ("simulate IMAGE --rate 1/256", "rate 1/256 is not one that codec 'lite' has: choose from 1/128, 1/64, 1/32, 1/16"),
    ("simulate IMAGE --rate", "--rate: expected one argument"),
    ("simulate IMAGE --snr loud", "--snr: snr_db = loud is not an SNR: give a finite number of dB"),
    ("simulate IMAGE --snr inf", "--snr: snr_db = inf is not an SNR"),
    ("simulate IMAGE --snr 1e9", "--snr: 1e+09 dB: expected an SNR from -100 to 100 dB"),
    ("simulate IMAGE --snr=-1e9", "--snr: -1e+09 dB: expected an SNR from -100 to 100 dB"),
    ("simulate IMAGE --channel rician", "--channel: invalid choice: 'rician'"),
    ("simulate IMAGE --erasures 1.1", "--erasures: '1.1': expected a number from 0 to 1"),
    ("simulate IMAGE --erasures=-0.1", "--erasures: '-0.1': expected a number from 0 to 1"),
    ("simulate IMAGE --erasures nan", "--erasures: 'nan': expected a number from 0 to 1"),
    ("simulate IMAGE --erasures some", "--erasures: 'some': expected a number from 0 to 1"),
    ("simulate IMAGE --seed 1.5", "--seed: '1.5': expected a whole number from 0 to 4294967295"),
    ("simulate IMAGE --seed=-1", "--seed: '-1': expected a whole number"),
    ("simulate IMAGE --seed 99999999999999999999", "--seed: '99999999999999999999': expected a whole number"),
    ("simulate IMAGE --codec absent", "model 'absent' is neither a known name nor a folder with a model: codecs by name are lite"),
    ("simulate IMAGE --codec mini", "model 'mini' has no codec: codecs by name are lite"),
    ("simulate IMAGE --codec FILE", "is neither a known name nor a folder with a model"),
    ("simulate IMAGE --codec ", "model '' is neither a known name nor a folder with a model"),
    ("simulate IMAGE --device toaster", "device 'toaster' is unknown to torch: write cpu, cuda or cuda:1"),
    ("simulate IMAGE --device cuda:99", "device 'cuda:99' is not available here"),
    (
        "simulate IMAGE --refiner absent",
        "model 'absent' is neither a known name nor a folder with a model: refiners by name are mini",
    ),
    ("simulate IMAGE --refiner lite", "model 'lite' has no refiner: refiners by name are mini"),
    ("simulate IMAGE --refiner mini --sampler euler", "'euler'"),
    ("simulate IMAGE --refiner mini --steps 0", "--steps: '0': expected a whole number from 1 to 10000"),
    ("simulate IMAGE --refiner mini --steps many", "--steps: 'many': expected a whole number"),
    ("simulate IMAGE --refiner mini --strength 0", "--strength: '0': expected a number above 0 to 1"),
    ("simulate IMAGE --refiner mini --strength 1.5", "--strength: '1.5': expected a number above 0 to 1"),
    ("simulate IMAGE --refiner mini --colour-fix sepia", "'sepia'"),
    ("simulate IMAGE --refiner mini --prompt bird", "text encoder"),
    ("simulate IMAGE --refiner mini --captioner FILE", "no BLIP-2 there"),
    *(
        (f"simulate IMAGE {option} {value}", f"{option} is an option of refining: give --refiner too")
        for option, value in (
            ("--sampler", "ddim"),
            ("--steps", "4"),
            ("--strength", "0.5"),
            ("--colour-fix", "none"),
            ("--prompt", "bird"),
            ("--captioner", "x"),
        )
    ),
    ("simulate IMAGE --out FILE", "no folder can be made there"),
    ("simulate IMAGE --out FILE/folder", "no folder can be made there"),
    ("simulate IMAGE --json yes", "unrecognized arguments: yes"),
    ("simulate IMAGE --refiner", "--refiner: expected one argument"),
    ("models remove", "invalid choice: 'remove'"),
    ("models --jsn", "unrecognized arguments: --jsn"),
    ("models import", "the following arguments are required: PATH_OR_HUB_ID"),
    ("models import absent", "absent: neither a folder here nor an id on the hub, such as"),
    ("models import /nowhere/at/all", "/nowhere/at/all: neither a folder here nor an id on the hub"),
    ("models import FILE", "is a file: give the folder, with config.yaml and model.ckpt or model.safetensors in it"),
    ("models import . --name here", ". holds no model.ckpt or model.safetensors"),
    ("models import . --name a/b", "'a/b' cannot be a model's name: use at most 64 letters, digits"),
    ("models import . --name", "--name: expected one argument"),
    ("models import . --name lite", "'lite' is the name of a model that comes with diffjscc"),
    ("models import . --replace yes", "unrecognized arguments: yes"),
    ("models pull", "the following arguments are required: NAME"),
    ("models pull ../x", "'../x' is not a published checkpoint: choose from DiffJSCC-OpenImage-CBR-1-384"),
]


@pytest.fixture
def place(images, tmp_path, monkeypatch):
    """An empty folder to be in, no models of the user's, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "file.txt").write_text("nothing")
    return {"IMAGE": str(images / "coffee.png"), "FILE": str(tmp_path / "file.txt")}


@pytest.mark.parametrize(("command", "message"), WRONG, ids=[command for command, _ in WRONG])
def test_a_wrong_value_is_one_line_and_exit_2(place, command, message, capsys):
    arguments = command.split(" ")
    for word, value in place.items():
        arguments = [argument.replace(word, value) for argument in arguments]
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.count("\n") == 1 and said.err.startswith("diffjscc")
    assert message in said.err
    assert said.out == ""


def test_images_of_one_name_from_two_folders_are_both_written(images, tmp_path, capsys):
    for folder, other in (("a", "coffee"), ("b", "chelsea")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes((images / f"{other}.png").read_bytes())
    sources = [str(tmp_path / folder / "x.png") for folder in "ab"]
    assert main(["simulate", *sources, "--out", str(tmp_path / "out"), "--json"]) == 0
    first, second = (read_image(row["received"]) for row in json.loads(capsys.readouterr().out))
    assert (first != second).any()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x-2_1dB_1-128.png", "x_1dB_1-128.png"]
