# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints with small changes at random: a model comes out, or one line; nothing is left behind, and memory is not filled."""

import copy
import random
import re
import shutil

import pytest
import torch
import yaml
from memory import LargestTensor
from safetensors.torch import save_file

from diffjscc.checkpoints import import_checkpoint

SEED = 404

#: What a value of a configuration is replaced by.
VALUES = [None, True, False, 0, -1, 1, 2, 3, 33, 64, 4096, 8192, 1 << 31, 10**30, -(10**30), 0.5, 1e-9, -2.5, 1e300]
VALUES += [float("nan"), float("inf"), "", "1", "a", "model.cldm.ControlLDM", "\x00", "ü" * 200, [], [1], [[1]], [0, 2], [-1], {}]
VALUES += [{"a": {"b": 1}}, [None], [1, 2, 4, 4], [8192] * 8, [1] * 1000, ["a"], {"params": {}}]


@pytest.fixture(scope="module")
def folder(whole_authors, tmp_path_factory):
    """The authors' small checkpoint as safetensors, which are read faster than what torch.save writes."""
    folder = whole_authors.write(tmp_path_factory.mktemp("fuzz") / "tiny")
    (folder / "model.ckpt").unlink()
    save_file({name: value.contiguous() for name, value in whole_authors.tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def attempt(folder, tmp_path, monkeypatch):
    """Imports the folder as it is; the line of the refusal, or "" for a model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = tmp_path / "models"

    def act():
        try:
            import_checkpoint(folder, "x", out=out)
        except ValueError as error:
            assert not out.exists() or not list(out.iterdir())
            line = str(error)
            assert line.isprintable() and str(folder) in line and 20 < len(line) < 1000, line
            return line
        assert [path.name for path in out.iterdir()] == ["x"]
        shutil.rmtree(out)
        return ""

    return act


def places(section, path=()):
    """Every key of nested mappings, and every index of lists in them, as (the mapping or list, key or index, path)."""
    for key in section if isinstance(section, dict) else range(len(section)):
        yield section, key, (*path, key)
        if isinstance(section[key], (dict, list)):
            yield from places(section[key], (*path, key))


def spoil_config(config, random):
    """One change to a configuration, and what it was."""
    section, key, path = random.choice(list(places(config)))
    how = random.choice(["delete", "replace", "replace", "replace", "nest", "list", "rename", "scale"])
    if how == "scale" and (isinstance(section[key], bool) or not isinstance(section[key], (int, float))):
        how = "replace"
    if how == "rename" and isinstance(section, list):
        how = "delete"
    if how == "delete":
        del section[key]
    elif how == "replace":
        section[key] = copy.deepcopy(random.choice(VALUES))
    elif how == "nest":
        section[key] = {"a": section[key]}
    elif how == "list":
        section[key] = [section[key]] * random.randint(1, 9)
    elif how == "rename":
        section[f"{key}_"] = section.pop(key)
    else:
        section[key] *= random.choice([-1, 2, 3, 16, 1 << 20])
    return f"{how} {'.'.join(map(str, path))}"


def test_a_configuration_changed_at_random_is_refused_in_one_line_or_imported(folder, attempt):
    whole = (folder / "config.yaml").read_text()
    draw, outcomes = random.Random(SEED), []
    try:
        for _ in range(200):
            config = yaml.safe_load(whole)
            what = spoil_config(config, draw)
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            line = attempt()
            outcomes.append((what, line))
    finally:
        (folder / "config.yaml").write_text(whole)
    refused = [line for _, line in outcomes if line]
    # Most keys count; a few describe what the tensors tell too.
    assert len(refused) > 150
    assert sum("config.yaml: " in line for line in refused) > 130


#: Values that are in range, one key at a time, and would make networks of gigabytes.
LARGE = [
    ("unet_config.params.model_channels", 8192),
    ("unet_config.params.context_dim", 8192),
    ("unet_config.params.in_channels", 8192),
    ("control_stage_config.params.model_channels", 4096),
    ("first_stage_config.params.ddconfig.ch", 8192),
    ("first_stage_config.params.ddconfig.z_channels", 8192),
    ("preprocess_config.params.max_ngf_E", 8192),
    ("preprocess_config.params.ngf", 8192),
    ("preprocess_config.params.n_blocks_D", 32),
]


@pytest.mark.parametrize(("path", "value"), LARGE)
def test_a_gigantic_network_is_refused_before_there_is_memory_for_it(folder, attempt, path, value):
    whole = (folder / "config.yaml").read_text()
    config = yaml.safe_load(whole)
    section, (*above, key) = config["params"], path.split(".")
    for name in above:
        section = section[name]
    section[key] = value
    if key in ("max_ngf_E", "ngf"):
        section["ngf"] = section["max_ngf_E"] = section["max_ngf_D"] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    try:
        with LargestTensor() as largest:
            assert attempt()
    finally:
        (folder / "config.yaml").write_text(whole)
    # The tensors of the file are mapped as a whole: they are all that there may be.
    assert largest.bytes <= (folder / "model.safetensors").stat().st_size


#: Tensors that a model does without.
UNUSED = re.compile(r"cond_encoder\.|resblocks\.2\.|text_projection|logit_scale|num_batches_tracked")


def spoil_tensors(tensors, random):
    """One change to a checkpoint's tensors, and what it was."""
    name = random.choice(sorted(tensors))
    value = tensors[name]
    how = random.choice(["drop", "reshape", "grow", "scalar", "retype", "rename", "add", "poison"])
    if how == "drop":
        del tensors[name]
    elif how == "reshape":
        tensors[name] = value.reshape(1, -1)
    elif how == "grow":
        tensors[name] = torch.cat([value, value]) if value.ndim else value.reshape(1)
    elif how == "scalar":
        tensors[name] = torch.tensor(1.0)
    elif how == "retype":
        kinds = [torch.int8, torch.bool, torch.float64, torch.bfloat16, torch.int64, torch.float8_e4m3fn]
        tensors[name] = value.to(random.choice(kinds))
    elif how == "rename":
        numbered = ".".join(part + "9" if part.isdigit() else part for part in name.split("."))
        tensors[name + "_" if numbered == name or random.random() < 0.3 else numbered] = tensors.pop(name)
    elif how == "add":
        tensors[random.choice(["a", name + ".a", name.replace("0", "77"), name.split(".")[0], ".", "x" * 1000])] = torch.zeros(3)
    else:
        tensors[name] = torch.full(value.shape, random.choice([torch.nan, torch.inf, 1e30]))
    return f"{how} {name}"


def test_tensors_changed_at_random_are_refused_in_one_line_or_imported(folder, attempt, whole_authors):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    draw, outcomes = random.Random(SEED), []
    try:
        for _ in range(60):
            tensors = dict(whole_authors.tensors)
            what = spoil_tensors(tensors, draw)
            save_file({name: value.contiguous() for name, value in tensors.items()}, file)
            outcomes.append((what, attempt()))
    finally:
        file.write_bytes(whole)
    # What is imported all the same: other types of floating-point numbers, and what is ignored or left out.
    for what, line in outcomes:
        assert line or what.startswith("retype ") or UNUSED.search(what), what
    assert sum(bool(line) for _, line in outcomes) > 40


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_bytes_changed_at_random_are_refused_in_one_line_or_imported(folder, attempt, whole_authors, form):
    kept = folder / "model.safetensors"
    whole = kept.read_bytes()
    kept.unlink()
    file = folder / f"model.{form}"
    draw = random.Random(SEED)
    try:
        if form == "safetensors":
            content = whole
        else:
            torch.save({"state_dict": whole_authors.tensors}, file)
            content = file.read_bytes()
        # The beginning and the end hold names, types and places.
        for _ in range(40):
            spoilt = bytearray(content)
            how = draw.choice(["cut", "flip", "zero", "insert"])
            at = draw.choice([draw.randrange(200), draw.randrange(len(content) // 50), len(content) - 1 - draw.randrange(40_000)])
            if how == "cut":
                del spoilt[at:]
            elif how == "flip":
                spoilt[at] ^= 1 << draw.randrange(8)
            elif how == "zero":
                spoilt[at : at + 64] = bytes(64)
            else:
                spoilt[at:at] = draw.randbytes(9)
            file.write_bytes(spoilt)
            attempt()
    finally:
        file.unlink()
        kept.write_bytes(whole)
