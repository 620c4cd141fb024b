# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and paths to models."""

import json
import logging
from fractions import Fraction

import pytest
import torch
from conftest import SMALL, small_codec
from memory import LargestTensor
from names import BAD_NAMES
from safetensors.torch import load_file, save_file

from diffjscc import hub
from diffjscc.cli import main
from diffjscc.hub import check_device, check_name, find_model, list_models, load_codec, load_refiner, save_codec
from diffjscc.symbols import check_rate


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder whose models are found by name first."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("DIFFJSCC_MODELS", str(folder))
    monkeypatch.setattr(hub, "_warned", set())
    return folder


def names():
    return [entry.name for entry in list_models()]


def test_the_bundled_model_is_found_by_name_and_fits_16_megabytes():
    entry = find_model("lite")
    assert entry in list_models()
    assert entry.size <= 16e6
    assert [str(rate) for rate in entry.rates] == ["1/128", "1/64", "1/32", "1/16"]
    assert (entry.path / "README.md").is_file()


@pytest.mark.parametrize("architecture", SMALL)
def test_a_codec_saved_is_the_codec_loaded(tmp_path, architecture):
    codec = small_codec(architecture)
    save_codec(codec, tmp_path / "mine")
    loaded = load_codec(tmp_path / "mine", dtype=torch.float32)
    assert loaded.name == "mine" and loaded.config == codec.config
    for name, value in codec.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"config.json", "model.safetensors"}
    assert all(
        v.dtype == torch.float16 for v in load_file(tmp_path / "mine" / "model.safetensors").values() if v.is_floating_point()
    )


def test_models_of_ones_own_have_names_too(models):
    save_codec(small_codec("lite"), models / "mine")
    assert "mine" in names()
    assert load_codec("mine").name == "mine"


def test_a_link_among_the_models_is_listed_and_found_by_its_own_name(models, tmp_path):
    save_codec(small_codec("lite"), tmp_path / "elsewhere" / "v2")
    (models / "mine").symlink_to(tmp_path / "elsewhere" / "v2")
    assert "mine" in names()
    assert find_model("mine").name == load_codec("mine").name == "mine"


def test_the_table_of_models_knows_rates_and_numbers_on_the_air(models):
    save_codec(small_codec("resnet"), models / "mine")
    # The low twelve bits of the names' CRC-32.
    assert {entry.name: entry.number for entry in list_models() if entry.codec} == {"lite": 0xE2D, "mine": 0x393}
    assert {entry.name: entry.rates[0] for entry in list_models() if entry.codec} == {
        "lite": Fraction(1, 128),
        "mine": Fraction(1, 64),
    }
    assert find_model("mini", "refiner").rates == ()


#: Folders of others, and broken ones: what they hold, and what is said of them.
NO_MODELS = {
    "a transformers model": (
        {"config.json": '{"architectures": ["Blip2"]}'},
        'holds no codec of this package: .*no "architecture"',
    ),
    "a diffusers pipeline": (
        {"model_index.json": '{"_class_name": "FluxPipeline"}'},
        "holds no refiner of this package: .*'FluxPipeline'",
    ),
    "no JSON": ({"config.json": "{"}, r"config\.json: not valid JSON"),
    "no text": ({"config.json": b"\xff\xfe\x00"}, r"config\.json: not valid JSON"),
    "a list": ({"config.json": "[1]"}, r"config\.json: holds a list, expected an object"),
    "deep": ({"config.json": "[" * 100_000}, r"config\.json: not valid JSON"),
    "no weights": ({"config.json": '{"architecture": "lite", "rates": ["1/64"]}'}, r"lacks model\.safetensors"),
    "no rates": (
        {"config.json": '{"architecture": "lite"}', "model.safetensors": ""},
        r"config\.json: no list of rates, and no rate",
    ),
    "rates of no kind": (
        {"config.json": '{"architecture": "lite", "rates": ["fast"]}', "model.safetensors": ""},
        r"config\.json: rate 'fast' is not a number",
    ),
    "rates that are no list": (
        {"config.json": '{"architecture": "lite", "rates": 5}', "model.safetensors": ""},
        r"config\.json: no list of rates",
    ),
    "an SNR range in reverse": (
        {"config.json": '{"architecture": "resnet", "rate": "1/64", "snr_range_db": [14, 0]}', "model.safetensors": ""},
        r"config\.json: snr_range_db = \[14\.0, 0\.0\]: the lower end comes first",
    ),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_a_folder_that_cannot_be_loaded_is_passed_over_with_one_warning(models, kind, caplog, capsys):
    files, reason = NO_MODELS[kind]
    save_codec(small_codec("lite"), models / "mine")
    (models / "other").mkdir()
    for name, content in files.items():
        (models / "other" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        assert names() == ["mine", "lite", "mini"]
        assert names() == ["mine", "lite", "mini"]
    assert len(caplog.records) == 1
    assert str(models / "other") in caplog.text
    with pytest.raises(ValueError, match=reason) as refusal:
        find_model(models / "other")
    assert "\n" not in str(refusal.value)
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["mine", "lite", "mini", "other"]
    assert listed[-1].startswith("other        broken: ")
    assert main(["models", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out) if "broken" in row] == ["other"]


def test_a_model_that_is_being_written_is_not_listed(models):
    save_codec(small_codec("lite"), models / ".mine.part")
    assert names() == ["lite", "mini"]


def test_a_path_never_becomes_a_name(models):
    save_codec(small_codec("lite"), models.parent / "mine")
    for name in ("../mine", ".", "..", ""):
        with pytest.raises(ValueError, match="neither a known name nor a folder with a model"):
            find_model(name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_models_name_is_a_plain_one(name):
    with pytest.raises(ValueError, match="cannot be a model's name: use at most 64 letters, digits") as refusal:
        check_name(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["lite", "mini", "Lite", "MINI"])
def test_the_bundled_models_keep_their_names(name):
    with pytest.raises(ValueError, match="is the name of a model that comes with diffjscc"):
        check_name(name)


def test_names_of_the_published_checkpoints_are_plain():
    for name in ("DiffJSCC-OpenImage-CBR-1-384", "x", "lite2", "a.b_c-d", "x" * 64):
        assert check_name(name) == name


def test_a_rate_is_refused_in_the_same_words_with_and_without_the_codec(lite):
    for refuse in (lambda: lite.check_rate("1/256"), lambda: check_rate("lite", find_model("lite").rates, "1/256")):
        with pytest.raises(ValueError, match="rate 1/256 is not one that codec 'lite' has: choose from 1/128, 1/64, 1/32, 1/16"):
            refuse()


@pytest.mark.parametrize("device", ["toaster", "cuda:x", "", "meta", "cuda:99"])
@pytest.mark.parametrize("load", [load_codec, load_refiner, lambda device: check_device(device)])
def test_a_device_that_is_none_or_is_not_here_is_one_line(device, load):
    with pytest.raises(ValueError, match=rf"device '{device}' is (unknown to torch|not available here)") as refusal:
        load(device=device)
    assert "\n" not in str(refusal.value)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_codec(small_codec("lite"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.stem.weight"
    for broken, message in [
        ({k: v for k, v in weights.items() if k != name}, f"lacks 1 tensors, such as {name}"),
        ({**weights, "extra": torch.zeros(1)}, "has unknown 1 tensors, such as extra"),
        ({**weights, name: torch.zeros(1)}, rf"tensor {name} is \(1,\), the configuration asks for"),
    ]:
        save_file(broken, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_codec(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9])
def test_weights_that_are_no_numbers_in_float16_are_refused(tmp_path, value):
    save_codec(small_codec("resnet"), tmp_path)
    weights = {key: value.float() for key, value in load_file(tmp_path / "model.safetensors").items()}
    weights["E.projection.bias"][1] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor E\.projection\.bias does not fit float16"):
        load_codec(tmp_path)


def test_a_network_of_any_size_is_refused_before_there_is_memory_for_it(tmp_path):
    save_codec(small_codec("lite"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for broken in (
        {"widths": [1 << 24] * 3},
        {"widths": [1 << 60] * 3},
        {"condition": 1 << 40},
        {"widths": "wide"},
        {"widths": [None]},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | broken))
        with LargestTensor() as largest, pytest.raises(ValueError, match="config") as refusal:
            load_codec(tmp_path)
        assert "\n" not in str(refusal.value)
        assert largest.bytes < 1 << 20


def test_a_file_of_weights_that_was_cut_short_is_refused(tmp_path):
    save_codec(small_codec("lite"), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or cut short"):
        load_codec(tmp_path)


def test_diverged_weights_are_not_exported(tmp_path):
    codec = small_codec("lite")
    with torch.no_grad():
        codec.encoder.stem.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"encoder\.stem\.weight does not fit float16"):
        save_codec(codec, tmp_path / "bad")


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a known name nor a folder with a model: codecs by name are .*lite"):
        find_model("absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        find_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "lite"}))
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        find_model(tmp_path)
