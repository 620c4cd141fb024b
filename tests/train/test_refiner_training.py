# SPDX-License-Identifier: GPL-3.0-or-later
"""Training the small autoencoder, the small refiner and the control module: they learn, and go on after a stop."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import photograph, small_codec, stop_at
from refine.tiny import Authors, refine

from diffjscc.channel import transmit
from diffjscc.checkpoints import load_stable_diffusion
from diffjscc.hub import load_refiner, save_codec
from diffjscc.images import read_image, write_image
from diffjscc.refine import convert
from diffjscc.refine.loading import save_pipeline
from diffjscc.train.control import ControlRecipe, ControlTrainer
from diffjscc.train.critic import Adversary, PatchCritic, critic_loss, generator_loss
from diffjscc.train.draws import Draws
from diffjscc.train.optimisers import short_memory, take_step
from diffjscc.train.refiner import RefinerRecipe, RefinerTrainer, build_refiner, fidelity_loss, refine_in_one_step
from diffjscc.train.texture import (
    feature_loss,
    flatness,
    lattice_loss,
    pooled_texture_loss,
    quiet_loss,
    spectrum_loss,
    texture_loss,
)
from diffjscc.train.vae import VaeRecipe, VaeTrainer

VAE = {"channels": 8, "width": 32, "batch": 2, "crop": 64, "steps": 4}
REFINER = {"widths": (32, 32), "batch": 2, "crop": 64, "steps": 4}


def same_bits(one, other):
    return all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def vae(images, tmp_path_factory):
    """A folder with a small autoencoder, trained for a moment; and its scores before and after."""
    out = tmp_path_factory.mktemp("vae")
    trainer = VaeTrainer(VaeRecipe(**{**VAE, "steps": 60}, ema=0.9), [images], out)
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


def test_the_autoencoder_goes_on_after_a_stop_bit_for_bit(images, tmp_path):
    recipe = VaeRecipe(**{**VAE, "steps": 6})
    whole = VaeTrainer(recipe, [images], tmp_path / "whole")
    whole.run()
    stop_at(VaeTrainer(recipe, [images], tmp_path / "broken"), 4)
    second = VaeTrainer(recipe, [images], tmp_path / "broken")
    assert second.step == 4
    second.run()
    assert same_bits(whole.vae, second.vae) and whole.scores == second.scores


def test_a_new_refiner_gives_the_autoencoders_image(vae, codec):
    """Its velocity is zero, so that all it adds is the noise that it starts with."""
    pipeline = build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, start_noise=0.0, **REFINER))
    initial = photograph(64, 96)
    with torch.no_grad():
        expected = pipeline.decode(pipeline.encode(initial[None]))[0].clamp(0, 1)
    torch.testing.assert_close(refine(pipeline, initial, 1.0, strength=1.0), expected, atol=1e-5, rtol=0)


def test_training_computes_what_the_pipeline_does(vae, codec):
    pipeline = build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, **REFINER))
    draws = Draws(0, [0])
    draws.each = [torch.Generator().manual_seed(1)]
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        initial = photograph(64, 96)[None]
        trained = refine_in_one_step(pipeline, initial, torch.tensor([3.0]), draws)
    called = refine(pipeline, initial, 3.0, strength=1.0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(trained.clamp(0, 1), called, atol=1e-5, rtol=0)


def test_the_refiner_learns_goes_on_after_a_stop_and_is_exported_whole(vae, codec, images, tmp_path):
    recipe = RefinerRecipe(vae=str(vae[0]), codec=codec, **{**REFINER, "steps": 8})
    whole = RefinerTrainer(recipe, [images], tmp_path / "whole")
    whole.run()
    stop_at(RefinerTrainer(recipe, [images], tmp_path / "broken"), 6)
    second = RefinerTrainer(recipe, [images], tmp_path / "broken")
    assert second.step == 6
    second.run()
    assert same_bits(whole.generator, second.generator) and whole.scores == second.scores
    assert set(second.scores) == {"PSNR initial", "refined", "detail initial", "refined detail"}
    exported = load_refiner(tmp_path / "broken" / "model", dtype=torch.float32)
    assert refine(exported, photograph(64, 64), 1.0).shape == (3, 64, 64)
    stored = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert stored["step"] == 8


def test_training_can_begin_with_the_bundled_refiner(codec, images, tmp_path):
    recipe = RefinerRecipe(codec=codec, steps=1, start_from="mini", batch=1, crop=64)
    trainer = RefinerTrainer(recipe, [images], tmp_path)
    before = trainer.pipeline.unet.conv_in.weight.detach().clone()
    trainer.run()
    assert not torch.equal(trainer.pipeline.unet.conv_in.weight, before)


def test_a_few_steps_of_l1_bring_the_image_nearer(vae, images, tmp_path):
    quick = {"steps": 40, "lr": 3e-3, "ema": 0.9, "start_noise": 0.5}
    recipe = RefinerRecipe(vae=str(vae[0]), codec="lite", texture=0.0, spectrum=0.0, **{**REFINER, **quick})
    trainer = RefinerTrainer(recipe, [images], tmp_path)
    before = trainer.validate()
    trainer.run()
    # With three seeds it was 1.6 to 3.4 dB.
    assert trainer.scores["refined"] > before["refined"] + 0.8


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


def test_features_see_how_lines_join():
    """The same lines, running on or cut into pieces and shuffled, against such lines elsewhere."""
    lines = torch.full((1, 3, 128, 128), 0.5)
    lines[..., ::8] += 0.3
    pieces = lines.clone()
    order = torch.randint(8, (32,), generator=torch.Generator().manual_seed(3))
    for piece, shift in enumerate(order.tolist()):
        pieces[..., 4 * piece : 4 * piece + 4, :] = lines[..., 4 * piece : 4 * piece + 4, :].roll(shift, -1)
    costs = [feature_loss(x, lines.roll(4, -1), torch.Generator().manual_seed(1)).item() for x in (lines, pieces)]
    assert costs[1] > 2 * costs[0]


def test_pooled_texture_asks_for_the_set_and_not_for_each_image():
    """Strong and weak texture exchanged between two images cost nothing pooled; both of medium strength do."""
    strong, weak = noise(0, 0.2), noise(1, 0.02)
    original = torch.cat((noise(2, 0.2), noise(3, 0.02)))
    sets = torch.cat((weak, strong)), torch.cat((noise(4, 0.11), noise(5, 0.11)))
    exchanged, medium = (pooled_texture_loss(x, original, torch.Generator().manual_seed(0)).item() for x in sets)
    assert exchanged < 0.2 * medium
    exchanged, medium = (texture_loss(x, original, torch.Generator().manual_seed(0)).item() for x in sets)
    assert exchanged > medium


def test_skies_are_flat_and_foliage_is_not():
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 64:] = noise(0, 0.1)[..., 64:]
    image = image + 0.004 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    where = flatness(image)
    assert where.shape == (1, 1, 128, 128)
    assert where[..., 16:48].min() > 0.7 and where[..., 80:112].max() < 0.1


def test_faint_grain_in_a_sky_costs_and_the_same_in_foliage_does_not():
    original = torch.cat((0.5 + 0.02 * (noise(0) - 0.5), noise(1)))
    grain = 0.015 * torch.randn(original.shape, generator=torch.Generator().manual_seed(3))
    sky, foliage = (quiet_loss(x + g, x, flatness(x)).item() for x, g in zip(original.split(1), grain.split(1)))
    assert sky > 0.5 and foliage < 0.01 * sky


def test_a_decibel_costs_the_same_at_every_quality():
    original, blur, weight = noise(0), noise(1, 0.02), torch.ones(1, 1, 128, 128)
    costs = [fidelity_loss(original + 1.2 * share * blur, original, original + share * blur, weight).item() for share in (0.5, 1.0)]
    assert costs[0] == pytest.approx(costs[1], rel=0.1)


def test_a_critic_is_not_heard_where_it_shall_not_be():
    critic, real, fake = PatchCritic(), noise(0), noise(1).requires_grad_()
    where = torch.zeros(1, 1, 128, 128)
    where[..., 96:] = 1
    generator_loss(critic(real), critic(fake), where).backward()
    assert fake.grad[..., :48].abs().max() == 0
    assert fake.grad[..., 96:].abs().max() > 0


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


@pytest.fixture(scope="module")
def small_images(images, tmp_path_factory):
    """Attention over a whole held-out image of any size takes its time."""
    folder = tmp_path_factory.mktemp("small")
    for path in images.iterdir():
        write_image(folder / path.name, read_image(path)[32:96, 64:128])
    return folder


def control_recipe(stable_diffusion, codec, **values):
    return ControlRecipe(**{**stable_diffusion, "codec": codec, "steps": 6, "batch": 2, "crop": 32, "lr": 1e-3, **values})


def test_the_control_module_learns_and_the_rest_stays_frozen(stable_diffusion, codec, small_images, tmp_path):
    recipe = control_recipe(stable_diffusion, codec)
    trainer = ControlTrainer(recipe, [small_images], tmp_path / "run")
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
    assert refine(refiner, initial, 3.0, num_inference_steps=2).shape == (3, 64, 64)
    again = ControlTrainer(recipe, [small_images], tmp_path / "run")
    assert again.step == 6


def test_the_control_module_goes_on_after_a_stop_bit_for_bit(stable_diffusion, codec, small_images, tmp_path):
    recipe = control_recipe(stable_diffusion, codec, steps=4)
    whole = ControlTrainer(recipe, [small_images], tmp_path / "whole")
    whole.run()
    stop_at(ControlTrainer(recipe, [small_images], tmp_path / "broken"), 2)
    second = ControlTrainer(recipe, [small_images], tmp_path / "broken")
    assert second.step == 2
    second.run()
    assert same_bits(whole.control, second.control) and whole.scores == second.scores


def and_what_it_keeps(compute):
    """A result, and how many numbers are kept for its gradient."""
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return compute(), sum(saved)


def test_gradient_checkpointing_changes_memory_and_not_the_gradients(stable_diffusion, codec, small_images, tmp_path):
    gradients, values_kept = [], []
    for checkpointing in (False, True):
        recipe = control_recipe(stable_diffusion, codec, precision="no", gradient_checkpointing=checkpointing)
        trainer = ControlTrainer(recipe, [small_images], tmp_path)
        for parameter in trainer.control.parameters():
            # Its last convolutions begin at zero, and would pass no gradient on.
            torch.nn.init.constant_(parameter, 0.01) if not parameter.any() else None
        loss, kept = and_what_it_keeps(lambda trainer=trainer: trainer.loss(*trainer.crops(range(2)), Draws(0, range(2)), 1.0))
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in trainer.control.parameters()])
        values_kept.append(kept)
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-4)
    assert values_kept[1] < 0.5 * values_kept[0]


@pytest.mark.parametrize("kind", ["single file", "folder"])
def test_stable_diffusion_in_half_precision_trains_in_float32(kind, stable_diffusion, codec, small_images, tmp_path):
    source = Path(stable_diffusion["stable_diffusion"])
    if kind == "single file":
        state = torch.load(source, weights_only=True)["state_dict"]
        half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        torch.save({"state_dict": half}, source)
    else:
        pipeline = load_stable_diffusion(source, stable_diffusion["config"])
        source = tmp_path / "folder"
        for part in ("unet", "vae", "text_encoder", "scheduler"):
            network = getattr(pipeline, part)
            (network if part == "scheduler" else network.half()).save_pretrained(source / part)
        write_tokenizer(source / "tokenizer")
    given = {"stable_diffusion": str(source), "config": stable_diffusion["config"] if kind == "single file" else ""}
    trainer = ControlTrainer(control_recipe(given, codec, steps=2), [small_images], tmp_path / "run")
    trainer.run()
    for network in (trainer.pipeline.unet, trainer.pipeline.vae, trainer.pipeline.text_encoder, trainer.control):
        assert {p.dtype for p in network.parameters()} == {torch.float32}


def write_tokenizer(folder):
    """The smallest tokenizer that transformers takes for CLIP's."""
    folder.mkdir(parents=True)
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "ab</w>", "a", "b"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 8}))


def test_half_precision_is_what_is_written(vae, codec, tmp_path):
    from safetensors.torch import load_file

    save_pipeline(build_refiner(RefinerRecipe(vae=str(vae[0]), codec=codec, **REFINER)), tmp_path)
    for part in ("unet", "vae", "control"):
        stored = load_file(tmp_path / part / "diffusion_pytorch_model.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float16}


def test_an_adversarial_stage_goes_on_from_the_first_and_after_a_stop(codec, images, tmp_path):
    recipe = RefinerRecipe(codec=codec, steps=4, start_from="mini", adversarial=0.01, lr=2e-4, batch=1, crop=64)
    whole = RefinerTrainer(recipe, [images], tmp_path / "whole")
    critic = {name: value.clone() for name, value in whole.adversary.critic.state_dict().items()}
    whole.run()
    assert not torch.equal(
        whole.adversary.critic.heads[0].parametrizations.weight.original, critic["heads.0.parametrizations.weight.original"]
    )
    stop_at(RefinerTrainer(recipe, [images], tmp_path / "broken"), 2)
    second = RefinerTrainer(recipe, [images], tmp_path / "broken")
    assert second.step == 2
    second.run()
    assert same_bits(whole.adversary.critic, second.adversary.critic) and same_bits(whole.generator, second.generator)


def test_the_critic_learns_to_tell_photographs_from_blur():
    torch.manual_seed(0)
    critic = PatchCritic((8, 16, 16, 16))
    optimiser = short_memory(critic, 2e-3)
    real = photograph(128, 128)[None]
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(real, 4), scale_factor=4.0, mode="bilinear")
    before = critic_loss(critic(real), critic(blurred)).item()
    for _ in range(30):
        loss = critic_loss(critic(real), critic(blurred))
        loss.backward()
        take_step(Accelerator(cpu=True), [optimiser], critic, 1.0)
    assert before == pytest.approx(0.69, abs=0.05)
    assert loss.item() < 0.6 * before
    assert generator_loss(critic(real), critic(blurred)).item() > before
    assert [logits.shape[-1] for logits in critic(real)] == [64, 32, 16]


def test_a_critics_gradient_is_gathered_over_the_parts_of_a_batch(monkeypatch):
    gradients = {1: [], 2: []}
    real, made = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    for parts, seen in gradients.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
        torch.manual_seed(0)
        adversary = Adversary(accelerator, 1e-3)
        # Spectral normalisation improves with every call, but not here.
        adversary.critic.eval()
        see = lambda accelerator, optimisers, module, factor, seen=seen: seen.append([p.grad.clone() for p in module.parameters()])  # noqa: E731
        monkeypatch.setattr("diffjscc.train.critic.take_step", see)
        for part in range(parts):
            window = slice(part * 4 // parts, (part + 1) * 4 // parts)
            with accelerator.accumulate(adversary.prepared):
                adversary.loss(real[window], made[window], 100, 1.0)
    assert len(gradients[1]) == len(gradients[2]) == 1
    for whole, gathered in zip(gradients[1][0], gradients[2][0]):
        torch.testing.assert_close(gathered, whole, atol=1e-6, rtol=1e-4)


def test_a_refiner_without_an_autoencoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vae = '': must be the model folder of a run of vae-mini"):
        RefinerRecipe(**REFINER)
    with pytest.raises(ValueError, match="vae = 'absent': no autoencoder there"):
        build_refiner(RefinerRecipe(vae="absent", **REFINER))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded as an AutoencoderTiny"):
        build_refiner(RefinerRecipe(vae=str(tmp_path), **REFINER))
