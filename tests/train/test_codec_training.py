# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: it learns, it survives being killed, it says what it cannot do."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import SMALL, stop_at
from skimage import data

from diffjscc.codec import build_codec
from diffjscc.codec.codec import ChannelState
from diffjscc.hub import load_codec, save_codec
from diffjscc.images import read_image, write_image
from diffjscc.train.codec import CodecRecipe, CodecTrainer, draw_conditions, draw_noise_variance
from diffjscc.train.images import RandomCrops, split
from diffjscc.train.optimisers import build_optimisers
from diffjscc.train.run import warm_up_then_fall

QUICK = {"batch": 2, "crop": 48, "seed": 3}


def weights(folder):
    return load_codec(folder / "model", dtype=torch.float32).state_dict()


@pytest.mark.parametrize("architecture, lr", [("lite", 1e-4), ("resnet", 3e-3), ("swin", 3e-3)])
def test_a_short_run_raises_the_held_out_psnr_and_exports_a_model(tmp_path, architecture, lr):
    for i in range(6):
        write_image(tmp_path / "data" / f"{i}.png", data.astronaut()[60 * i : 60 * i + 160, 30 * i : 30 * i + 224])
    recipe = CodecRecipe(steps=80, batch=8, crop=32, lr=lr, ema=0.9, seed=3)
    trainer = CodecTrainer(tmp_path / "data", tmp_path / "run", SMALL[architecture], recipe)
    before = trainer.validate()
    model = trainer.run()
    assert trainer.step == 80
    for point in before:
        if point.endswith("@13dB"):
            assert trainer.scores[point] > before[point] + 0.05
    assert load_codec(model).architecture == architecture
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 80


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tmp_path, images):
    recipe = CodecRecipe(steps=12, **QUICK)
    CodecTrainer(images, tmp_path / "whole", SMALL["lite"], recipe).run()

    stop_at(CodecTrainer(images, tmp_path / "broken", SMALL["lite"], recipe), 7)
    second = CodecTrainer(images, tmp_path / "broken", SMALL["lite"], recipe)
    assert second.step == 7
    second.run()
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "broken")[name], value)


def test_a_killed_command_goes_on_where_it_was(tmp_path, images):
    command = [sys.executable, "-m", "diffjscc.cli", "train", "codec", "--data", images, "--out", tmp_path / "run",
               "--options", json.dumps({k: v for k, v in SMALL["lite"].items() if k != "architecture"}),
               "--batch", "2", "--crop", "48", "--checkpoint-seconds", "0.2"]  # fmt: skip
    process = subprocess.Popen([*command, "--steps", "100000"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    reached = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert reached > 0
    done = subprocess.run([*command, "--steps", str(reached + 5)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "model written to" in done.stdout and f"{reached + 5}/{reached + 5}" in done.stderr
    assert "1/128@1dB" in done.stderr


def test_training_can_begin_with_another_models_weights(tmp_path, images):
    codec = build_codec(SMALL["lite"])
    save_codec(codec, tmp_path / "first")
    recipe = CodecRecipe(steps=1, start_from=str(tmp_path / "first"), **QUICK)
    trainer = CodecTrainer(images, tmp_path / "second", SMALL["lite"], recipe)
    for name, value in codec.state_dict().items():
        torch.testing.assert_close(trainer.codec.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, images):
    CodecTrainer(images, tmp_path, SMALL["lite"], CodecRecipe(steps=1, **QUICK)).run()
    with pytest.raises(ValueError, match="holds a run with another lr"):
        CodecTrainer(images, tmp_path, SMALL["lite"], CodecRecipe(steps=1, lr=1e-4, **QUICK))


@pytest.mark.parametrize("wrong", [{"crop": 40}, {"crop": 16}, {"steps": 0}, {"batch": 0}, {"decay": 0}])
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CodecRecipe(**wrong)


def test_learning_rates_rise_stay_and_fall_to_zero():
    factors = [warm_up_then_fall(step, 1000, decay=0.4) for step in range(1001)]
    assert factors[0] == 0.01 and factors[99] == factors[600] == 1
    assert factors[800] == pytest.approx(0.5) and factors[1000] == 0


def test_the_linear_path_starts_as_a_working_code(images, tmp_path):
    trainer = CodecTrainer(images, tmp_path, {"architecture": "lite"}, CodecRecipe(steps=1, **QUICK))
    start = trainer.validate()
    # Blocks' principal components alone, before a single step.
    assert start["1/16@13dB"] > 18
    assert start["1/16@13dB"] > start["1/16@1dB"] > start["1/128@1dB"]


def test_rates_and_snrs_are_drawn_as_the_recipe_says():
    codec = build_codec(SMALL["lite"])
    random = torch.Generator().manual_seed(0)
    channels, state = draw_conditions(codec, CodecRecipe(batch=4000), random)
    assert torch.bincount(channels)[[4, 8, 16, 32]].float().div(4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    assert state.snr_db.min() < -4.9 and state.snr_db.max() > 19.9
    assert (state.tx_snr_db != state.snr_db).float().mean() == pytest.approx(0.15, abs=0.03)
    recipe = CodecRecipe(batch=4000, rates=["1/128", "1/16", "1/16"], snr_range_db=[3.0, 5.0])
    channels, state = draw_conditions(codec, recipe, random)
    assert (channels == 32).float().mean() == pytest.approx(2 / 3, abs=0.03) and (channels != 8).all()
    assert state.snr_db.min() >= 3 and state.snr_db.max() <= 5
    with pytest.raises(ValueError, match="rate 1/256 is not one"):
        draw_conditions(codec, CodecRecipe(rates=["1/256"]), random)


def test_uneven_noise_is_fading_or_erasure_and_the_rest_is_even():
    recipe = CodecRecipe(batch=400, uneven=0.5)
    state = ChannelState.awgn(torch.full((400,), 7.0))
    variance = draw_noise_variance(state, torch.zeros(400, 4, 6, 6), recipe, torch.Generator().manual_seed(0))
    even = (variance - 10**-0.7).abs().amax((1, 2, 3)) < 1e-6
    erased = torch.isinf(variance).flatten(1).any(1)
    assert even.float().mean() == pytest.approx(0.5, abs=0.08)
    assert erased.float().mean() == pytest.approx(0.25, abs=0.07)
    assert torch.isinf(variance[erased]).float().mean() == pytest.approx(0.15, abs=0.04)


def test_muon_steps_move_the_kernels_themselves():
    torch.manual_seed(0)
    codec = build_codec({"architecture": "lite", "widths": [64, 64, 64]})
    kernel = codec.encoder.stages[0][0].first.weight
    before = kernel.detach().clone()
    adam, muon = build_optimisers(codec, 1e-3, 0.01, narrowest=64)
    assert any(k is kernel for k in muon.kernels)
    assert sum(len(group["params"]) for group in adam.param_groups) + len(muon.kernels) == len(list(codec.parameters()))
    kernel.grad = torch.randn_like(kernel)
    muon.step()
    assert not torch.equal(kernel, before)


def test_crops_depend_on_seed_and_step_alone(images):
    files, held_out = split(images)
    assert len(files) == 2 and len(held_out) == 1
    crops = RandomCrops(files, 64, 3, seed=1)
    assert torch.equal(crops(5), RandomCrops(files, 64, 3, seed=1, cache_bytes=0)(5))
    assert not torch.equal(crops(5), crops(6))
    assert not torch.equal(crops(5), RandomCrops(files, 64, 3, seed=2)(5))


def test_images_smaller_than_a_crop_are_passed_over_and_all_of_them_refused(tmp_path, images):
    write_image(tmp_path / "small.png", np.zeros((40, 40, 3), np.uint8))
    crops = RandomCrops([tmp_path / "small.png", *split(images)[0]], 64, 4, seed=0)
    assert crops(0).shape == (4, 3, 64, 64)
    with pytest.raises(ValueError, match="every training image is smaller than the crop of 512"):
        RandomCrops(split(images)[0], 512, 1, seed=0)(0)


def test_a_folder_with_one_image_cannot_be_split(tmp_path, images):
    write_image(tmp_path / "one.png", read_image(images / "coffee.png"))
    with pytest.raises(ValueError, match="training needs at least two"):
        split(tmp_path)
