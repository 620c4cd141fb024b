# SPDX-License-Identifier: GPL-3.0-or-later
"""Trainings of the small autoencoder, the small refiner and the control module: they learn, and go on after a stop."""

import pytest
import torch
from conftest import photograph, small_codec, stop_at
from refine.tiny import Authors

from diffjscc.channel import transmit
from diffjscc.cli import main
from diffjscc.hub import load_refiner, save_codec
from diffjscc.refine import convert
from diffjscc.refine.loading import save_pipeline
from diffjscc.train.control import ControlRecipe, ControlTrainer
from diffjscc.train.critic import PatchCritic, critic_loss, generator_loss
from diffjscc.train.optimisers import short_memory, take_step
from diffjscc.train.refiner import RefinerRecipe, RefinerTrainer, build_refiner, refine_in_one_step
from diffjscc.train.texture import lattice_loss, spectrum_loss, texture_loss
from diffjscc.train.vae import VaeRecipe, VaeTrainer

VAE = {"channels": 8, "width": 32, "batch": 2, "crop": 64}
REFINER = {"widths": (32, 32), "batch": 2, "crop": 64}


@pytest.fixture(scope="module")
def vae(images, tmp_path_factory):
    """A folder with a small autoencoder, trained for a moment; and its scores before and after."""
    out = tmp_path_factory.mktemp("vae")
    trainer = VaeTrainer(images, out, VaeRecipe(steps=60, ema=0.9, **VAE))
    before = trainer.validate()
    return trainer.run(), before, trainer.scores


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec") / "small"
    save_codec(small_codec("lite"), folder)
    return str(folder)


def test_the_autoencoder_learns(vae):
    folder, before, after = vae
    assert after["PSNR"] > before["PSNR"] + 3
    assert (folder / "diffusion_pytorch_model.safetensors").is_file()


def test_latents_have_about_unit_deviation(vae, codec):
    pipeline = build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, **REFINER))
    with torch.no_grad():
        assert 0.5 < pipeline.encode(photograph(128, 128)[None]).std() < 2


def test_a_new_refiner_gives_the_autoencoders_image(vae, codec):
    """Its velocity is zero, so that all it adds is the noise that it starts with."""
    pipeline = build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, start_noise=0.0, **REFINER))
    initial = photograph(64, 96)
    with torch.no_grad():
        expected = pipeline.decode(pipeline.encode(initial[None]))[0].clamp(0, 1)
    torch.testing.assert_close(pipeline(initial, 1.0, strength=1.0), expected, atol=1e-5, rtol=0)


def test_training_computes_what_the_pipeline_does(vae, codec):
    pipeline = build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, **REFINER))
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        initial = photograph(64, 96)[None]
        trained = refine_in_one_step(pipeline, initial, torch.tensor([3.0]), torch.Generator().manual_seed(1))
    called = pipeline(initial, 3.0, strength=1.0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(trained.clamp(0, 1), called, atol=1e-5, rtol=0)


def test_the_refiner_learns_goes_on_after_a_stop_and_is_exported_whole(vae, codec, images, tmp_path):
    recipe = RefinerRecipe(vae=str(vae[0]), codec=codec, steps=8, **REFINER)
    whole = RefinerTrainer(images, tmp_path / "whole", recipe)
    whole.run()
    stop_at(RefinerTrainer(images, tmp_path / "broken", recipe), 6)
    second = RefinerTrainer(images, tmp_path / "broken", recipe)
    assert second.step == 6
    second.run()
    for name, value in whole.generator.state_dict().items():
        torch.testing.assert_close(second.generator.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert set(second.scores) == {"PSNR initial", "refined", "detail initial", "refined detail"}
    exported = load_refiner(tmp_path / "broken" / "model", dtype=torch.float32)
    assert exported(photograph(64, 64), 1.0).shape == (3, 64, 64)
    stored = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert stored["step"] == 8


def test_training_can_begin_with_the_bundled_refiner(codec, images, tmp_path):
    recipe = RefinerRecipe(vae="", codec=codec, steps=1, start_from="mini", batch=1, crop=64)
    trainer = RefinerTrainer(images, tmp_path, recipe)
    before = trainer.pipeline.unet.conv_in.weight.detach().clone()
    trainer.run()
    assert not torch.equal(trainer.pipeline.unet.conv_in.weight, before)


def test_a_few_steps_of_l1_bring_the_image_nearer(vae, codec, images, tmp_path):
    recipe = RefinerRecipe(
        vae=str(vae[0]),
        codec=codec,
        steps=60,
        texture=0.0,
        spectrum=0.0,
        lr=1e-2,
        muon_lr=0.05,
        ema=0.9,
        start_noise=0.5,
        **REFINER,
    )
    trainer = RefinerTrainer(images, tmp_path, recipe)
    before = trainer.validate()
    trainer.run()
    assert trainer.scores["refined"] > before["refined"] + 0.2


def noise(seed, deviation=0.1):
    return 0.5 + deviation * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def textures(refined, original):
    """texture_loss and spectrum_loss."""
    return texture_loss(refined, original, torch.Generator().manual_seed(0)).item(), spectrum_loss(refined, original).item()


def test_texture_may_be_another_but_must_be_as_strong():
    flat = torch.full((1, 3, 128, 128), 0.5)
    for other, missing, grain, same in zip(*(textures(*pair) for pair in (
        (noise(0), noise(1)), (flat, noise(1)), (noise(1), flat), (noise(1), noise(1)),
    ))):  # fmt: skip
        assert other < 0.35 * missing
        assert grain == pytest.approx(missing, rel=0.05)
        assert same == 0


def test_texture_must_be_where_it_belongs():
    """As much detail in all, once everywhere alike and once in one half alone."""
    half, even = noise(0, 0.14), noise(1)
    half[..., :64] = 0.5
    for misplaced, other in zip(textures(even, half), textures(noise(1), noise(2))):
        assert misplaced > 1.5 * other


def test_fine_lines_in_place_of_grain_show_in_the_spectrum():
    lines = torch.full((1, 3, 128, 128), 0.5)
    lines[..., ::4] += 0.17
    lines[..., 2::4] -= 0.17
    assert textures(lines, noise(1))[1] > 1.5 * textures(noise(2), noise(1))[1]


def test_a_lattice_costs_and_photographs_have_none():
    photographs = torch.stack([photograph(128, 128), photograph(256, 256)[:, 128:, 128:]])
    marked = photographs.clone()
    marked[..., ::4, ::4] += 0.05
    assert lattice_loss(marked) > 3 * lattice_loss(photographs)


@pytest.fixture
def stable_diffusion(tmp_path):
    """A single-file checkpoint in Stable Diffusion's format, and its configuration."""
    import yaml

    authors = Authors()
    authors.add_text_encoder()
    kept = {k: v for k, v in authors.tensors.items() if k.startswith((convert.UNET, convert.VAE, convert.TEXT))}
    torch.save({"state_dict": kept}, tmp_path / "sd.ckpt")
    (tmp_path / "sd.yaml").write_text(yaml.safe_dump({"model": {"params": authors.config}}))
    return {"stable_diffusion": str(tmp_path / "sd.ckpt"), "config": str(tmp_path / "sd.yaml")}


def test_the_control_module_learns_and_the_rest_stays_frozen(stable_diffusion, codec, images, tmp_path):
    recipe = ControlRecipe(**stable_diffusion, codec=codec, steps=6, batch=2, crop=32, lr=1e-3)
    trainer = ControlTrainer(images, tmp_path / "run", recipe)
    frozen = {name: value.clone() for name, value in trainer.pipeline.unet.state_dict().items()}
    before = trainer.validate()["held-out loss"]
    model = trainer.run()
    assert trainer.scores["held-out loss"] < before
    for name, value in trainer.pipeline.unet.state_dict().items():
        assert torch.equal(value, frozen[name])
    refiner = load_refiner(model, dtype=torch.float32)
    small = small_codec("lite")
    symbols = small.encode(photograph(64, 64), 3.0)
    initial = small.decode(transmit(symbols, 3.0), symbols.header)
    assert refiner(initial, 3.0, steps=2).shape == (3, 64, 64)
    again = ControlTrainer(images, tmp_path / "run", recipe)
    assert again.step == 6


def test_the_commands_train_all_of_it(stable_diffusion, codec, images, tmp_path, capsys):
    common = ["--data", str(images), "--steps", "1", "--batch", "1", "--crop", "64"]
    assert main(["train", "vae", *common, "--out", str(tmp_path / "vae"), "--channels", "8", "--width", "8"]) == 0
    refiner = ["--vae", str(tmp_path / "vae" / "model"), "--codec", codec]
    assert main(["train", "refiner", *common, "--out", str(tmp_path / "mini"), *refiner]) == 0
    paths = [f"--{name.replace('_', '-')}={path}" for name, path in stable_diffusion.items()]
    assert main(["train", "control", *common, "--out", str(tmp_path / "control"), "--codec", codec, *paths]) == 0
    assert capsys.readouterr().out.count("model written to") == 3
    assert main(["train", "refiner", *common, "--out", str(tmp_path / "x"), "--vae", "absent", "--codec", codec]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_half_precision_is_what_is_written(vae, codec, tmp_path):
    from safetensors.torch import load_file

    save_pipeline(build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, **REFINER)), tmp_path)
    for part in ("unet", "vae", "control"):
        stored = load_file(tmp_path / part / "diffusion_pytorch_model.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float16}


def test_an_adversarial_stage_goes_on_from_the_first_and_after_a_stop(codec, images, tmp_path):
    recipe = RefinerRecipe(codec=codec, steps=4, start_from="mini", adversarial=0.01, lr=2e-4, batch=1, crop=64)
    whole = RefinerTrainer(images, tmp_path / "whole", recipe)
    critic = {name: value.clone() for name, value in whole.critic.state_dict().items()}
    whole.run()
    assert not torch.equal(
        whole.critic.heads[0].parametrizations.weight.original, critic["heads.0.parametrizations.weight.original"]
    )
    stop_at(RefinerTrainer(images, tmp_path / "broken", recipe), 2)
    second = RefinerTrainer(images, tmp_path / "broken", recipe)
    assert second.step == 2
    second.run()
    for name, value in whole.critic.state_dict().items():
        torch.testing.assert_close(second.critic.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_the_critic_learns_to_tell_photographs_from_blur():
    torch.manual_seed(0)
    critic = PatchCritic((8, 16, 16, 16))
    optimiser = short_memory(critic, 2e-3)
    real = photograph(128, 128)[None]
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(real, 4), scale_factor=4.0, mode="bilinear")
    before = critic_loss(critic(real), critic(blurred)).item()
    for _ in range(30):
        loss = critic_loss(critic(real), critic(blurred))
        critic.zero_grad()
        loss.backward()
        take_step([optimiser], critic, 1.0)
    assert before == pytest.approx(0.69, abs=0.05)
    assert loss.item() < 0.6 * before
    assert generator_loss(critic(real), critic(blurred)).item() > before
    assert [logits.shape[-1] for logits in critic(real)] == [64, 32, 16]


def test_a_refiner_without_an_autoencoder_is_refused():
    with pytest.raises(ValueError, match="vae = '': no autoencoder there"):
        build_refiner(RefinerRecipe())
