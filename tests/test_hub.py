# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and paths to models."""

import json

import pytest
import torch
from conftest import SMALL, small_codec
from safetensors.torch import load_file, save_file

from diffjscc.hub import find_model, list_models, load_codec, model_rates, save_codec


def test_the_bundled_model_is_found_by_name_and_fits_16_megabytes():
    entry = find_model("lite")
    assert entry in list_models()
    assert entry.size <= 16e6
    assert [str(rate) for rate in model_rates(entry.codec)] == ["1/128", "1/64", "1/32", "1/16"]
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


def test_models_of_ones_own_have_names_too(tmp_path, monkeypatch):
    save_codec(small_codec("lite"), tmp_path / "mine")
    monkeypatch.setenv("DIFFJSCC_MODELS", str(tmp_path))
    assert "mine" in [entry.name for entry in list_models()]
    assert load_codec("mine").name == "mine"


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
