# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user of diffusers expects of a pipeline: loading, components, schedulers, inputs, callbacks, CPU offload."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image
from refine.tiny import CountingTokenizer, diffusion_refiner, flow_refiner, refine, tiny_blip2
from skimage import data

from diffjscc.hub import find_model
from diffjscc.images import to_tensor
from diffjscc.refine.captions import load_captioner
from diffjscc.refine.control import ControlModule
from diffjscc.refine.guidance import LatentGuidance
from diffjscc.refine.pipeline import DiffJSCCPipeline
from diffjscc.refine.samplers import SAMPLERS, SpacedDDPMScheduler

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {"diffusion": diffusion_refiner, "flow": flow_refiner}

MINI = find_model("mini", "refiner").refiner

PIXELS = np.ascontiguousarray(data.astronaut()[:48, 96:160])


@pytest.fixture(params=KINDS)
def refiner(request):
    return KINDS[request.param]()


@pytest.fixture
def diffusion():
    return diffusion_refiner()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def refined(refiner, **options):
    """The refined image of PIXELS, (3, H, W)."""
    return refine(refiner, to_tensor(PIXELS), 1.0, generator=seeded(), **options)


# Loading


def test_the_bundled_refiner_loads_with_diffusers_own_words_in_a_new_process():
    """Where nothing but the pipeline was imported before."""
    code = f"""
from diffjscc.refine.pipeline import DiffJSCCPipeline
from diffusers import DiffusionPipeline

for cls in (DiffJSCCPipeline, DiffusionPipeline):
    refiner = cls.from_pretrained({str(MINI)!r})
    assert type(refiner) is DiffJSCCPipeline and refiner.is_flow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # AutoencoderTiny does not expect what it writes into its own configuration.
    assert "not expected" not in done.stderr


def test_pipelines_made_from_another_refine_as_it_does(refiner):
    expected = refined(refiner)
    for made in (
        DiffJSCCPipeline(**refiner.components),
        DiffJSCCPipeline(**refiner.components, **refiner.parameters),
        DiffJSCCPipeline.from_pipe(refiner),
    ):
        assert made.unet is refiner.unet
        assert torch.equal(refined(made), expected)


def test_from_pipe_leaves_the_networks_in_the_type_that_they_have():
    refiner = flow_refiner().to(torch.bfloat16)
    expected = refined(refiner)
    made = DiffJSCCPipeline.from_pipe(refiner)
    assert refiner.unet.dtype == made.unet.dtype == torch.bfloat16
    assert torch.equal(refined(made), expected)
    assert DiffJSCCPipeline.from_pipe(refiner, dtype=torch.float32).unet.dtype == torch.float32


@pytest.mark.parametrize("text", [True, False])
def test_saved_without_optional_components_it_loads_by_either_name(tmp_path, text):
    refiner = diffusion_refiner(text=text)
    refiner.save_pretrained(tmp_path)
    for loaded in (DiffJSCCPipeline.from_pretrained(tmp_path), diffusers.DiffusionPipeline.from_pretrained(tmp_path)):
        assert type(loaded) is DiffJSCCPipeline
        assert (loaded.text_encoder is None) is not text and loaded.tokenizer is None and loaded.captioner is None
        assert type(loaded.scheduler) is SpacedDDPMScheduler and loaded.defaults == refiner.defaults
        torch.testing.assert_close(refined(loaded), refined(refiner), atol=1e-5, rtol=0)


def test_defaults_belong_to_the_control_module_and_a_pipeline_may_have_its_own(tmp_path):
    refiner = flow_refiner()
    refiner.control.save_pretrained(tmp_path / "control")
    assert ControlModule.from_pretrained(tmp_path / "control").config.defaults == refiner.control.config.defaults
    own = DiffJSCCPipeline(**refiner.components, defaults={"strength": 0.5})
    assert own.defaults == refiner.defaults | {"strength": 0.5}
    assert torch.equal(refined(own), refined(refiner, strength=0.5))
    own.save_pretrained(tmp_path / "own")
    assert DiffJSCCPipeline.from_pretrained(tmp_path / "own").defaults == own.defaults
    with pytest.raises(ValueError, match="defaults hold 'steps': choose from num_inference_steps"):
        DiffJSCCPipeline(**refiner.components, defaults={"steps": 5})


# Schedulers


def walked(refiner, pixels=PIXELS, **options):
    """The refined latent, and the timesteps on the way to it."""
    timesteps = []
    refiner(
        pixels,
        1.0,
        generator=seeded(),
        callback_on_step_end=lambda pipeline, step, timestep, tensors: timesteps.append((float(timestep), tensors["latents"])),
        **options,
    )
    return timesteps[-1][1], [timestep for timestep, _ in timesteps]


SWAPPED = (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)


@pytest.mark.parametrize("scheduler", SWAPPED)
def test_a_swapped_scheduler_is_used_and_stays_as_it_is(diffusion, scheduler):
    before, _ = walked(diffusion, num_inference_steps=6)
    diffusion.scheduler = scheduler.from_config(diffusion.scheduler.config)
    trained = diffusion.scheduler.timesteps.clone()
    after, timesteps = walked(diffusion, num_inference_steps=6)
    assert not torch.equal(before, after)
    assert torch.equal(diffusion.scheduler.timesteps, trained)
    diffusion.scheduler.set_timesteps(6)
    assert timesteps == diffusion.scheduler.timesteps.tolist()
    _, half = walked(diffusion, num_inference_steps=6, strength=0.5)
    assert half == timesteps[3 * diffusion.scheduler.order :]


SOLVERS = (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler)


@pytest.mark.parametrize("options", [{}, {"strength": 0.5}, {"latent_guidance": LatentGuidance(2.0)}])
def test_solvers_of_the_same_equation_end_at_the_same_latent(diffusion, options):
    """Each scales samples and noise in its own way; were one way left out, its end would be elsewhere."""
    config = {**diffusion.scheduler.config, "timestep_spacing": "linspace"}
    ends = []
    for solver in SOLVERS[:3] if "latent_guidance" in options else SOLVERS:
        diffusion.scheduler = solver.from_config(config)
        ends.append(walked(diffusion, PIXELS[:16, :16], num_inference_steps=40, **options)[0])
    for end in ends[1:]:
        assert (end - ends[0]).std() < 0.25 * ends[0].std()


@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler, UniPCMultistepScheduler])
def test_guidance_that_a_scheduler_would_undo_is_refused(diffusion, scheduler):
    diffusion.scheduler = scheduler.from_config(diffusion.scheduler.config)
    with pytest.raises(ValueError, match=f"latent_guidance does not work with {scheduler.__name__}"):
        refined(diffusion, latent_guidance=LatentGuidance(30.0))


def test_a_samplers_name_is_short_for_a_scheduler_made_from_the_pipelines_own(diffusion):
    named = refined(diffusion, sampler="ddim", num_inference_steps=5)
    diffusion.scheduler = DDIMScheduler.from_config(diffusion.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    assert torch.equal(refined(diffusion, num_inference_steps=5), named)
    assert not torch.equal(refined(diffusion, sampler="ddpm", num_inference_steps=5), named)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_starts_pure_noise_at_the_last_timestep_whatever_the_schedulers_spacing(diffusion, sampler):
    diffusion.scheduler = DDPMScheduler.from_config(diffusion.scheduler.config, timestep_spacing="leading")
    assert walked(diffusion, num_inference_steps=6)[1][0] == 830
    assert walked(diffusion, num_inference_steps=6, sampler=sampler)[1][0] == 999


def test_another_flow_scheduler_walks_a_flow_of_one_step_to_the_same_end():
    refiner = flow_refiner()
    expected = refined(refiner)
    refiner.scheduler = FlowMatchHeunDiscreteScheduler.from_config(refiner.scheduler.config)
    torch.testing.assert_close(refined(refiner), expected, atol=1e-6, rtol=0)
    refiner.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    torch.testing.assert_close(refined(refiner), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("make", "scheduler", "line"),
    [
        (flow_refiner, UniPCMultistepScheduler, "predicts the velocity of a flow"),
        (flow_refiner, DDPMScheduler, "predicts the velocity of a flow"),
        (diffusion_refiner, FlowMatchEulerDiscreteScheduler, "predicts noise"),
        (diffusion_refiner, EDMEulerScheduler, "no alphas_cumprod"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused_in_one_line(make, scheduler, line):
    refiner = make()
    refiner.scheduler = scheduler()
    with pytest.raises(ValueError, match=f"scheduler {scheduler.__name__} does not fit.*{line}") as refusal:
        refined(refiner)
    assert "\n" not in str(refusal.value)


def test_steps_that_a_scheduler_does_not_take_are_refused_in_one_line(diffusion):
    diffusion.scheduler = LCMScheduler.from_config(diffusion.scheduler.config)
    with pytest.raises(ValueError, match="LCMScheduler takes no num_inference_steps = 60") as refusal:
        refined(diffusion, num_inference_steps=60)
    assert "\n" not in str(refusal.value)


def test_the_authors_timesteps_include_both_ends_and_one_step_is_the_last():
    scheduler = SpacedDDPMScheduler()
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [999, 749, 500, 250, 0]
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [999]
    scheduler.set_timesteps(timesteps=[900, 30])
    assert scheduler.timesteps.tolist() == [900, 30]


# Inputs and outputs


def test_every_form_of_an_image_gives_the_same(refiner):
    tensor = to_tensor(PIXELS)
    expected = refined(refiner)
    floats = PIXELS.astype(np.float32) / 255
    for form in (Image.fromarray(PIXELS), PIXELS, PIXELS[None], floats, floats[None], tensor, tensor[None], tensor.double()):
        for given in (form, [form]) if np.ndim(form) == 3 else (form,):
            result = refiner(given, 1.0, generator=seeded(), output_type="pt").images
            assert result.shape == (1, 3, 48, 64) and torch.equal(result[0], expected)


def test_every_form_of_a_batch_gives_the_same():
    refiner = flow_refiner()
    pixels = np.stack([PIXELS, PIXELS[::-1], PIXELS[:, ::-1]])
    forms = ([Image.fromarray(p) for p in pixels], pixels, list(pixels), to_tensor(pixels), list(to_tensor(pixels)))
    results = [refiner(form, [1.0, 2.0, 3.0], generator=seeded(), output_type="pt").images for form in forms]
    assert results[0].shape == (3, 3, 48, 64)
    assert all(torch.equal(result, results[0]) for result in results)


def test_greyscale_and_transparent_pil_images_become_rgb():
    refiner = flow_refiner()
    for mode in ("L", "RGBA", "P"):
        assert refiner(Image.fromarray(PIXELS).convert(mode), 1.0).images[0].mode == "RGB"


def test_an_output_comes_in_the_type_that_was_asked_for(refiner):
    expected = refined(refiner)

    def output(**options):
        return refiner(PIXELS, 1.0, generator=seeded(), **options)

    (image,) = output().images
    assert isinstance(image, Image.Image)
    assert np.abs(np.asarray(image) - expected.movedim(0, -1).numpy() * 255).max() <= 0.501
    array = output(output_type="np").images
    assert array.shape == (1, 48, 64, 3) and np.array_equal(array[0], expected.movedim(0, -1))
    (tensor,) = output(output_type="pt", return_dict=False)
    assert torch.equal(tensor[0], expected)
    latent = output(output_type="latent").images
    assert latent.shape[-2:] == (48 // refiner.downsampling, 64 // refiner.downsampling)
    whole = refiner.decode(latent).float()
    if not refiner.is_flow:
        torch.testing.assert_close(whole.clamp(0, 1)[0], refined(refiner, colour_fix="none"))


def test_what_it_returns_can_be_trained_on(refiner):
    """No inference tensors, which autograd would refuse."""
    weight = torch.ones(1, requires_grad=True)
    (refined(refiner) * weight).sum().backward()
    assert weight.grad.isfinite().all()


# Callbacks and interruption


def test_a_callback_is_given_what_it_asks_for_and_may_change_it(diffusion):
    given = []

    def callback(pipeline, step, timestep, tensors):
        given.append(set(tensors))
        assert pipeline is diffusion and pipeline.num_timesteps == 4
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    names = ["latents", "prompt_embeds"]
    changed = refined(diffusion, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert given == [set(names)] * 4
    assert not torch.equal(changed, refined(diffusion))


def test_a_callback_may_change_or_end_guidance(diffusion):
    scales, rows = [], []
    diffusion.unet.register_forward_pre_hook(lambda unet, inputs: rows.append(len(inputs[0])))

    def callback(pipeline, step, timestep, tensors):
        pipeline._guidance_scale += 1
        scales.append(pipeline.guidance_scale)
        return tensors

    refined(diffusion, guidance_scale=3.0, callback_on_step_end=callback)
    assert scales == [4, 5, 6, 7] and rows == [2] * 4
    rows.clear()
    refined(diffusion, guidance_scale=3.0, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5))
    assert rows == [2, 2, 2, 1]


def test_interrupted_it_takes_no_further_step_and_the_next_call_is_whole(diffusion):
    whole, steps = refined(diffusion), []

    def stop_after_two(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == 1

    stopped = refined(diffusion, callback_on_step_end=stop_after_two)
    assert steps == [0, 1] and diffusion.interrupt
    assert stopped.shape == whole.shape and not torch.equal(stopped, whole)
    assert torch.equal(refined(diffusion), whole)


# Text


def test_features_can_be_given_in_place_of_prompts(diffusion):
    random = seeded(5)
    texts = {name: torch.randn(1, 8, 16, generator=random) for name in ("prompt_embeds", "negative_prompt_embeds")}
    expected, none = diffusion.encode_prompt("")
    assert none is None
    assert torch.equal(refined(diffusion, prompt_embeds=expected), refined(diffusion))
    positive = refined(diffusion, prompt_embeds=texts["prompt_embeds"], guidance_scale=4.0)
    both = refined(diffusion, **texts, guidance_scale=4.0)
    assert not torch.equal(positive, both)
    empty = {**texts, "negative_prompt_embeds": diffusion.encode_prompt("")[0]}
    assert torch.equal(refined(diffusion, **empty, guidance_scale=4.0), positive)


def test_guidance_without_a_text_encoder_is_refused():
    with pytest.raises(ValueError, match="no text encoder, so that guidance has no effect"):
        refined(flow_refiner(), guidance_scale=4.0)


def test_a_swapped_text_encoder_is_asked_again(diffusion):
    before = refined(diffusion)
    diffusion.text_encoder = diffusion_refiner(seed=7).text_encoder
    assert not torch.equal(refined(diffusion), before)


def test_features_that_are_kept_follow_the_networks_to_another_type(diffusion):
    refined(diffusion)
    diffusion.to(torch.bfloat16)
    assert refined(diffusion).isfinite().all()


def test_calls_in_two_threads_do_not_disturb_each_other(diffusion):
    """A scheduler counts its steps, so that each call has one of its own."""
    ways = [{"num_inference_steps": steps, "sampler": sampler} for steps, sampler in ((9, None), (7, "dpm++"), (8, "ddim"))]
    alone = [refined(diffusion, **options) for options in ways]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(lambda options: refined(diffusion, **options), ways * 2))
    assert all(torch.equal(image, other) for image, other in zip(together, alone * 2))


# CPU offload. Without a GPU the device that is computed on is the CPU: hooks run and the results are compared.


def with_captioner(refiner, folder):
    tiny_blip2(folder)
    captioner, processor = load_captioner(folder)
    refiner.register_modules(captioner=captioner, caption_processor=processor)
    refiner.tokenizer = CountingTokenizer()
    return refiner


def test_with_model_offload_each_network_is_fetched_when_it_is_needed(diffusion, tmp_path):
    expected = refined(with_captioner(diffusion, tmp_path))
    diffusion._captions.clear()
    diffusion._features.clear()
    diffusion.enable_model_cpu_offload(device="cpu")
    fetched = []
    for name in ("captioner", "text_encoder", "control", "unet", "vae"):
        hook = getattr(diffusion, name)._hf_hook
        original = hook.pre_forward
        hook.pre_forward = lambda *args, name=name, original=original, **kwargs: fetched.append(name) or original(*args, **kwargs)
    assert torch.equal(refined(diffusion), expected)
    assert fetched == ["captioner", "text_encoder", "vae", *["control", "unet"] * 4, "vae"]
    assert diffusion.caption_failures == 0
    # Hooks are put on anew after a call, which takes the networks off the device.
    assert all("pre_forward" not in vars(getattr(diffusion, name)._hf_hook) for name in fetched)
    diffusion.remove_all_hooks()
    assert torch.equal(refined(diffusion), expected)


def test_with_sequential_offload_nothing_is_asked_of_a_network_that_has_no_weights(refiner, tmp_path, monkeypatch):
    """Between its layers' runs a network's weights are on the device "meta", and so is all that is put where they are."""
    if not refiner.is_flow:
        with_captioner(refiner, tmp_path)
    expected, tiled = refined(refiner), refined(refiner, tile=64)
    refiner._captions.clear()
    refiner._features.clear()
    # To "cpu:0", which the pipeline asks for, a copy would be made at every step of accelerate's.
    offload = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", lambda network, device, **rest: offload(network, torch.device("cpu"), **rest))
    refiner.enable_sequential_cpu_offload(device="cpu")
    assert refiner.unet.device == torch.device("meta")
    assert torch.equal(refined(refiner), expected)
    assert torch.equal(refined(refiner, tile=64), tiled)
    assert refiner.caption_failures == 0
    assert refiner.unet.device == torch.device("meta")
