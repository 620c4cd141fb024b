# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes: those that come with the package, changes on the command line, and one clear line for each mistake."""

from dataclasses import fields

import pytest
import yaml

from diffjscc.packaged import packaged_folder, packaged_names
from diffjscc.train import KINDS, recipe_class
from diffjscc.train.channels import ChannelRecipe
from diffjscc.train.recipes import as_values, as_yaml, build_recipe, load_recipe, recipe_summary

#: Keys that a recipe of a kind cannot do without.
REQUIRED = {"steps": 1, "batch": 4, "crop": 64}
NEEDED = {"codec": {}, "vae": {}, "refiner": {"vae": "runs/vae/model"}, "control": {"stable_diffusion": "sd21"}}

#: What a person may write by mistake, by the type of the key.
WRONG = {
    "int": ["many", 1.5, [1], None, True, {"a": 1}],
    "float": ["much", [1.0], None, False, float("nan"), float("inf")],
    "bool": ["yes, please", 1, None],
    "str": [None, True, ["a"], {"a": 1}],
    "dict": [None, 3, "lite", ["lite"]],
    "list[str]": ["1/128", None, [None], [["1/128"]], 3],
    "list[int]": [64, None, ["wide"], [1.5], [True]],
    "list[float]": [1.0, None, ["low", "high"], [None, 3]],
    "ChannelRecipe": [None, 3, "awgn", ["awgn"]],
}

#: Values of the right type that make no training.
IMPOSSIBLE = [
    *[("codec", key, value) for key in ("steps", "batch", "accumulate") for value in (0, -1)],
    *[("codec", "crop", value) for value in (16, 40, 0, -64)],
    ("codec", "accumulate", 3),
    ("codec", "precision", "float32"),
    ("codec", "seed", -1),
    ("codec", "loss", "ssim"),
    ("codec", "loss", "relative"),
    ("codec", "optimiser", "sgd"),
    ("codec", "schedule", "step"),
    *[("codec", key, value) for key in ("lr", "muon_lr", "critic_lr") for value in (0, -1e-3)],
    ("codec", "warm_up", -1),
    ("codec", "adversarial", -0.1),
    *[("codec", "decay", value) for value in (0, 1.1)],
    *[("codec", "ema", value) for value in (-0.1, 1)],
    *[("codec", "snr_range_db", value) for value in ([1], [5, 1], [1, 2, 3])],
    *[("vae", key, 0) for key in ("channels", "width")],
    *[("vae", "decoder_blocks", value) for value in ([1], [1, 0], [1, 2, 3])],
    ("vae", "noise", -1),
    ("refiner", "vae", ""),
    ("refiner", "layers", 0),
    *[("refiner", "widths", value) for value in ([], [0], [48])],
    *[("refiner", key, -1) for key in ("texture", "coarse", "spectrum", "lattice", "adversarial", "start_noise")],
    ("refiner", "precision", "fp16"),
    ("control", "stable_diffusion", ""),
    ("control", "lr", 0),
    ("channel", "fading", "rician"),
    *[("channel", key, value) for key in ("faded", "erased", "mismatch", "burst_loss") for value in (-0.1, 1.1)],
    *[("channel", key, 0) for key in ("bursts", "clip_passes", "burst_symbols", "sample_rate")],
    ("channel", "burst_symbols", 8192),
    ("channel", "clip_db", -1),
    ("channel", "tdl", "F"),
    *[("channel", key, -1) for key in ("delay_spread_ns", "doppler_hz")],
]


def recipe(kind, **values):
    return build_recipe({"kind": kind, **REQUIRED, **NEEDED[kind], **values})


def wrong_types():
    for owner in (*KINDS, "channel"):
        cls = ChannelRecipe if owner == "channel" else recipe_class(owner)
        for field in fields(cls):
            yield from ((owner, field.name, value) for value in WRONG[field.type])


@pytest.mark.parametrize("owner, key, value", [*wrong_types(), *IMPOSSIBLE], ids=str)
def test_a_wrong_value_is_named_with_its_key_and_what_is_expected(owner, key, value):
    with pytest.raises(ValueError, match=rf"^(channel\.)?{key} = .*: (must be|expected) .*") as error:
        recipe("codec", channel={key: value}) if owner == "channel" else recipe(owner, **{key: value})
    assert "\n" not in str(error.value)


def test_every_recipe_of_the_paper_and_of_the_bundled_models_is_there_and_valid():
    expected = [f"codec-paper-r{r}" for r in (128, 64, 32, 16)]
    expected += ["codec-swin", "codec-rayleigh", "codec-adversarial", "codec-lite", "vae-mini", "refiner-mini", "control-sd21"]
    assert sorted(expected) == packaged_names("recipes")
    needed = {"refiner-mini": ["vae=runs/vae/model"], "control-sd21": ["stable_diffusion=sd21"]}
    for name in expected:
        loaded = load_recipe(name, needed.get(name, []))
        assert build_recipe(yaml.safe_load(as_yaml(loaded))) == loaded
        # A person reads it: a comment says what it is for, and the lines fit.
        text = (packaged_folder("recipes") / f"{name}.yaml").read_text()
        assert text.startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n#\n# ") and recipe_summary(name).endswith(".")
        assert max(map(len, text.splitlines())) <= 132


def test_the_papers_codecs_have_the_papers_settings():
    for rate in (128, 64, 32, 16):
        values = as_values(load_recipe(f"codec-paper-r{rate}"))
        assert values["architecture"] == {"architecture": "resnet", "rate": f"1/{rate}", "csi": "awgn"}
        wanted = {"steps": 100_000, "batch": 32, "crop": 256, "lr": 1e-3, "loss": "mse", "optimiser": "adam"}
        wanted |= {"schedule": "cosine", "decay": 1.0, "warm_up": 0, "snr_range_db": [0, 14], "ema": 0}
        assert {key: values[key] for key in wanted} == wanted
    control = as_values(load_recipe("control-sd21", ["stable_diffusion=x"]))
    assert (control["steps"], control["batch"], control["lr"]) == (25_000, 16, 1e-4)


def test_changes_are_read_as_yaml_and_reach_into_nested_keys():
    changed = load_recipe(
        "codec-lite",
        ["steps=1e3", "lr=3e-4", "precision=no", "start_from=007", "rates=[1/128, 1/16]", "compile=true"]
        + ["channel.clip_db=4", "channel.bursts=10", "architecture.decoder_depths=[2, 2, 2]", "seed=3"],
    )
    assert (changed.steps, changed.lr, changed.precision, changed.start_from) == (1000, 3e-4, "no", "007")
    assert changed.rates == ["1/128", "1/16"] and changed.compile and changed.seed == 3
    # The recipe's other keys stay.
    assert (changed.channel.clip_db, changed.channel.bursts, changed.channel.faded) == (4, 10, 0.075)
    assert changed.architecture == {"architecture": "lite", "attention": [1, 2], "decoder_depths": [2, 2, 2]}


@pytest.mark.parametrize(
    "change, message",
    [
        ("step=5", "no key is called 'step' (did you mean 'steps'?); there are steps, batch"),
        ("muonlr=5", "(did you mean 'muon_lr'?)"),
        ("chanel.clip_db=5", "no key is called 'chanel' (did you mean 'channel'?)"),
        ("channel.clip=5", "no key is called 'channel.clip' (did you mean 'channel.clip_db'?); there are channel.fading"),
        ("channel.doppler=5", "(did you mean 'channel.doppler_hz'?)"),
        ("architecture.decoder=[1]", "no key is called 'architecture.decoder' (did you mean 'architecture.decoder_depths'?)"),
        ("architecture.xyz=[1]", "no key is called 'architecture.xyz'; there are architecture.architecture"),
        ("architecture.architecture=[lite]", "architecture.architecture = ['lite']: must be one of"),
        ("architecture.architecture=vit", "architecture.architecture = 'vit': must be one of lite, resnet, swin"),
        ("steps.x=5", "steps = {'x': 5}: expected a whole number"),
        ("steps", "'steps': expected key=value, such as steps=1000"),
        ("=5", "'=5': expected key=value"),
        ("kind=vae", "the kind of a recipe cannot be changed"),
        ("rates=[1/128", "'rates=[1/128': '[1/128' is no YAML value: put it in quotes"),
        ("channel=5", "channel = 5: expected a mapping"),
    ],
)
def test_a_misspelt_change_is_told_with_the_nearest_right_one(change, message):
    with pytest.raises(ValueError) as error:
        load_recipe("codec-lite", [change])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("kind: [", "no YAML file"),
        ("- codec\n- vae\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("steps: 5\n", "kind = None: must be one of codec, vae, refiner, control"),
        ("kind: codecs\n", "kind = 'codecs': must be one of codec, vae, refiner, control (did you mean 'codec'?)"),
        ("kind: [codec]\n", "kind = ['codec']: must be one of"),
        ("kind: codec\nbatch: 4\n", "steps, crop must be given, such as steps=… at the end of the command"),
        ("kind: codec\nsteps: 5\nbatch: 4\ncrop: 64\n1: 2\n", "no key is called '1'"),
        ("kind: !!python/object/apply:os.system ['true']\n", "no YAML file"),
        ("\x00", "no YAML file"),
        ("[" * 5000, "no YAML file"),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_is_not_there_is_told_with_the_nearest_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"recipe 'codec-lit' is no file, and no name \(did you mean 'codec-lite'\?\); names are codec-"
    ):
        load_recipe("codec-lit")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00kind")
    with pytest.raises(ValueError, match="no YAML file"):
        load_recipe(tmp_path / "binary.yaml")


def test_the_command_lists_the_recipes(capsys):
    from diffjscc.cli import main

    assert main(["train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == packaged_names("recipes")
    assert all(len(line) < 140 for line in lines)
    assert main(["train", "codec-lite"]) == 2
    assert capsys.readouterr().err == "diffjscc: train needs --data and --out: the folders of the images and of the run\n"
