# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a refiner: what a file lacks or holds wrongly is refused in one line, never filled or used."""

import logging
import shutil

import pytest
import torch
from refine.tiny import diffusion_refiner, flow_refiner, tiny_blip2
from safetensors.torch import load_file, save_file

from diffjscc.refine.captions import load_captioner
from diffjscc.refine.loading import load_pipeline, save_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = ("vae", "unet", "control", "text_encoder")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A refiner with a text encoder, as it is stored."""
    folder = tmp_path_factory.mktemp("stored")
    save_pipeline(diffusion_refiner(), folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy to damage."""
    return shutil.copytree(stored, tmp_path / "refiner")


def change(folder, name, edit):
    """Edits the tensors of one network's file; the file, and the name of a tensor in it."""
    (file,) = (folder / name).glob("*.safetensors")
    tensors = load_file(file)
    tensor = sorted(name for name, value in tensors.items() if value.is_floating_point())[-1]
    edit(tensors, tensor)
    save_file(tensors, file, metadata={"format": "pt"})
    return file, tensor


def refusal(folder):
    with pytest.raises(ValueError) as caught:
        load_pipeline(folder, "cpu", torch.float32)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_what_is_stored_loads_without_a_word(stored, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        loaded = load_pipeline(stored, "cpu", torch.float32)
    assert not caplog.records and not capfd.readouterr().err
    for name in NETWORKS:
        network = getattr(loaded, name)
        assert network.dtype == torch.float32 and not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_missing_tensor_is_not_filled_with_random_numbers(folder, name):
    _, tensor = change(folder, name, lambda tensors, tensor: tensors.pop(tensor))
    line = refusal(folder)
    assert f"{folder / name} lacks 1 tensors" in line and tensor.rsplit(".", 2)[-2] in line


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_file_and_tensor(folder, name, value):
    def spoil(tensors, tensor):
        tensors[tensor].view(-1)[-1] = value

    file, tensor = change(folder, name, spoil)
    line = refusal(folder)
    assert line.startswith(f"{file}: tensor {tensor} ") and "NaN or infinite" in line


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_of_another_shape_or_name_is_refused(folder, name):
    change(folder, name, lambda tensors, tensor: tensors.update({tensor: tensors[tensor][:1].clone()}))
    assert str(folder / name) in refusal(folder)
    change(folder, name, lambda tensors, tensor: tensors.update(stray=torch.zeros(3)))
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_cut_short_is_refused_by_name(folder, name):
    (file,) = (folder / name).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert str(folder / name) in refusal(folder)
    file.unlink()
    assert refusal(folder) == f"{folder / name} holds no safetensors file"


def test_a_refiner_without_text_encoder_loads_and_stays_without(tmp_path):
    save_pipeline(flow_refiner(), tmp_path)
    assert load_pipeline(tmp_path, "cpu", torch.float32).text_encoder is None


def test_a_pipelines_own_defaults_are_saved_with_it(tmp_path):
    refiner = flow_refiner()
    refiner.register_to_config(defaults={"strength": 0.25})
    save_pipeline(refiner, tmp_path)
    assert load_pipeline(tmp_path, "cpu", torch.float32).defaults == refiner.defaults


def test_a_captioner_that_lacks_a_tensor_or_holds_nan_is_refused(tmp_path):
    tiny_blip2(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)

    def line(changed):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError) as caught:
            load_captioner(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    name = "query_tokens" if "query_tokens" in tensors else min(tensors)
    assert f"lacks 1 tensors, such as {name}" in line({n: v for n, v in tensors.items() if n != name})
    assert f"tensor {name} " in line(tensors | {name: tensors[name] * torch.nan})
    save_file(tensors, file, metadata={"format": "pt"})
    assert load_captioner(tmp_path)[0].dtype == torch.float32
