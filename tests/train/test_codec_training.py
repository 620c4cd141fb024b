# SPDX-License-Identifier: GPL-3.0-or-later
"""Training a codec: it learns, begins as it should, and draws what the recipe says."""

import json

import pytest
import torch
from conftest import SMALL, photograph, stop_at
from skimage import data
from train.small import codec_recipe, weights

from diffjscc.codec import build_codec
from diffjscc.hub import load_codec, save_codec
from diffjscc.images import to_pixels, write_image
from diffjscc.metrics import psnr
from diffjscc.train.channels import ChannelRecipe
from diffjscc.train.codec import CodecTrainer
from diffjscc.train.codec_path import draw_conditions, receive
from diffjscc.train.dataset import find_files, whole_blocks
from diffjscc.train.difficulty import Difficulty
from diffjscc.train.draws import Draws
from diffjscc.train.optimisers import build_optimisers, cosine, linear

#: Architecture of the bundled codec.
BUNDLED = {"architecture": "lite", "attention": [1, 2]}


@pytest.mark.parametrize("architecture, lr", [("lite", 1e-4), ("resnet", 3e-3), ("swin", 3e-3)])
def test_a_short_run_raises_the_held_out_psnr_and_exports_a_model(tmp_path, architecture, lr):
    for i in range(6):
        write_image(tmp_path / "data" / f"{i}.png", data.astronaut()[60 * i : 60 * i + 160, 30 * i : 30 * i + 224])
    recipe = codec_recipe(architecture, steps=80, batch=8, crop=32, lr=lr, ema=0.9)
    trainer = CodecTrainer(recipe, [tmp_path / "data"], tmp_path / "run")
    before = trainer.validate()
    model = trainer.run()
    assert trainer.step == 80
    for point in before:
        if point.endswith("@13dB"):
            assert trainer.scores[point] > before[point] + 0.05
    assert load_codec(model).architecture == architecture
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 80


@pytest.mark.parametrize("extra", [{}, {"adversarial": 0.001}], ids=["alone", "with a critic"])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, images, extra):
    recipe = codec_recipe(steps=8, **extra)
    CodecTrainer(recipe, [images], tmp_path / "whole").run()
    stop_at(CodecTrainer(recipe, [images], tmp_path / "broken"), 5)
    second = CodecTrainer(recipe, [images], tmp_path / "broken")
    assert second.step == 5
    second.run()
    whole, broken = (weights(tmp_path / name) for name in ("whole", "broken"))
    assert all(torch.equal(broken[name], value) for name, value in whole.items())


def test_training_can_begin_with_another_models_weights(tmp_path, images):
    codec = build_codec(SMALL["lite"])
    save_codec(codec, tmp_path / "first")
    trainer = CodecTrainer(codec_recipe(steps=1, start_from=str(tmp_path / "first")), [images], tmp_path / "second")
    for name, value in codec.state_dict().items():
        torch.testing.assert_close(trainer.codec.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_a_deeper_codec_begins_as_the_one_that_it_starts_from(tmp_path, images, lite):
    """New blocks are identities: the images are the same."""
    save_codec(lite, tmp_path / "first")
    deeper = {"architecture": "lite", "decoder_depths": [2, 3, 4], "attention": [1, 2]}
    trainer = CodecTrainer(
        codec_recipe(architecture=deeper, start_from=str(tmp_path / "first"), precision="no"), [images], tmp_path / "run"
    )
    same = CodecTrainer(codec_recipe(architecture=BUNDLED, start_from="lite", precision="no"), [images], tmp_path / "same")
    assert sum(p.numel() for p in trainer.codec.parameters()) > sum(p.numel() for p in same.codec.parameters())
    assert trainer.validate() == pytest.approx(same.validate(), abs=0.01)


def test_learning_rates_rise_stay_and_fall_to_zero():
    factors = [linear(step, 1000, decay=0.4, warm_up=100) for step in range(1001)]
    assert factors[0] == 0.01 and factors[99] == factors[600] == 1
    assert factors[800] == pytest.approx(0.5) and factors[1000] == 0
    factors = [cosine(step, 1000, decay=1.0, warm_up=0) for step in range(1001)]
    assert factors[0] == 1 and factors[500] == pytest.approx(0.5) and factors[1000] == 0


def test_the_linear_path_starts_as_a_working_code(images, tmp_path):
    recipe = codec_recipe(architecture={"architecture": "lite"}, steps=1)
    start = CodecTrainer(recipe, [images], tmp_path).validate()
    # Blocks' principal components alone, before a single step.
    assert start["1/16@13dB"] > 18
    assert start["1/16@13dB"] > start["1/16@1dB"] > start["1/128@1dB"]


def test_rates_and_snrs_are_drawn_as_the_recipe_says():
    codec, channel = build_codec(SMALL["lite"]), ChannelRecipe(mismatch=0.15)
    draws = Draws(0, range(4000))
    channels, state = draw_conditions(codec, channel, draws)
    assert torch.bincount(channels)[[4, 8, 16, 32]].float().div(4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    assert state.snr_db.min() < -4.9 and state.snr_db.max() > 19.9
    assert (state.tx_snr_db != state.snr_db).float().mean() == pytest.approx(0.15, abs=0.03)
    channels, state = draw_conditions(codec, channel, draws, ["1/128", "1/16", "1/16"], [3.0, 5.0])
    assert (channels == 32).float().mean() == pytest.approx(2 / 3, abs=0.03) and (channels != 8).all()
    assert state.snr_db.min() >= 3 and state.snr_db.max() <= 5


def test_muon_steps_move_the_kernels_themselves():
    torch.manual_seed(0)
    codec = build_codec({"architecture": "lite", "widths": [64, 64, 64]})
    kernel = codec.encoder.stages[0][0].first.weight
    before = kernel.detach().clone()
    adam, muon = build_optimisers(codec, "muon", 1e-3, 0.01, narrowest=64)
    assert any(k is kernel for k in muon.kernels)
    assert sum(len(group["params"]) for group in adam.param_groups) + len(muon.kernels) == len(list(codec.parameters()))
    kernel.grad = torch.randn_like(kernel)
    muon.step()
    assert not torch.equal(kernel, before)


def test_the_papers_optimiser_is_adam_without_weight_decay():
    codec = build_codec(SMALL["resnet"])
    (adam,) = build_optimisers(codec, "adam", 1e-3, 0.01)
    assert type(adam) is torch.optim.Adam
    group = adam.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert len(group["params"]) == len(list(codec.parameters()))


def test_an_image_s_difficulty_is_near_that_of_the_whole_image_whoever_measures_it(tmp_path, lite):
    for number, (height, width) in enumerate([(320, 480), (288, 400), (256, 256)]):
        write_image(tmp_path / "data" / f"{number}.png", to_pixels(photograph(height, width)))
    (tmp_path / "data" / "-.png").write_bytes(b"unreadable")
    files = [file for file in find_files([tmp_path / "data"]) if file.name != "-.png"]
    channels, snr_db = torch.tensor([4, 4, 32, 32]), torch.tensor([1.0, 13.0, 1.0, 13.0])
    # The unreadable one is among those that show how rate and SNR act together.
    difficulties = [Difficulty(lite, find_files([tmp_path / "data"])) for _ in range(2)]
    measured = [
        [receive(lite, whole_blocks(file), int(c), float(s), Draws(0, [0])) for c, s in zip(channels, snr_db)] for file in files
    ]
    whole = torch.tensor([[-psnr(got, whole_blocks(file)) for got in row] for file, row in zip(files, measured)])
    estimated = torch.stack([10 * difficulties[0]([index] * 4, channels, snr_db).log10() for index in (1, 2, 3)])
    assert (estimated - whole).abs().max() < 1.5 and (estimated - whole).square().mean().sqrt() < 0.8
    assert torch.equal(10 * difficulties[1]([3, 2, 1], channels[:3], snr_db[:3]).log10(), estimated.flip(0).diagonal())


def test_a_relative_loss_measures_each_image_once_and_keeps_it(images, tmp_path, lite):
    recipe = codec_recipe(architecture=BUNDLED, start_from="lite", loss="relative", steps=2, batch=4)
    trainer = CodecTrainer(recipe, [images], tmp_path)
    expected = trainer.difficulty([0, 1], torch.tensor([4, 32]), torch.tensor([1.0, 13.0]))
    # The bundled codec reaches 20 to 30 dB there.
    assert ((expected > 1e-3) & (expected < 1e-2)).all() or (expected.log10() * -10).tolist() == pytest.approx([25, 25], abs=8)
    trainer.run()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["difficulty"]["log_mse"]
    assert kept.shape == (2, 2, 2) and torch.isfinite(kept).all()
    # A lower error at the higher rate and the higher SNR.
    assert (kept[:, 0] > kept[:, 1]).all() and (kept[..., 0] > kept[..., 1]).all()
