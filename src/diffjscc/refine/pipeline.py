# SPDX-License-Identifier: GPL-3.0-or-later
"""DiffJSCC's refiner as a diffusers pipeline."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedModel

from .captions import CaptionFailed, caption, text_features
from .colour import COLOUR_FIXES
from .control import SNR_SCALE, ControlModule
from .guidance import LatentGuidance
from .inputs import image_batch, one_each, snr_batch
from .range_null import RangeNull
from .samplers import check_shiftable, implied_output, make_sampler, predicted_original, shift_sample, step_options
from .tiling import in_tiles
from .unet import SmoothUNet

logger = logging.getLogger(__name__)

#: What is used where neither a call nor the refiner's own defaults say; the paper's values.
DEFAULTS = {"num_inference_steps": 100, "strength": 1.0, "colour_fix": "wavelet"}

#: What defaults may hold beside these: `start_noise`, which makes the refiner a flow.
FLOW_DEFAULT = "start_noise"

#: Captions, and texts whose features, that are kept.
TEXTS_KEPT = 64

#: Tiles of this many pixels a side are used when the whole image does not fit.
FALLBACK_TILE = 512

#: Pixels of the largest image that is refined as a whole unless told otherwise.
WHOLE_PIXELS = 2 << 20

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Generators = torch.Generator | list[torch.Generator] | None


class DiffJSCCPipeline(DiffusionPipeline):
    """Initial reconstruction to refined image (paper, section III).

        image ──► VAE encoder ─► f_s ─┬──────────► control module ◄─ γ
          │                           │ (start)      │
          └─► caption ─► text encoder │              ▼
                             │        └─► z_T ─► UNet × steps ─► z_0 ─► VAE decoder ─► colours ─► refined
                             └── f_l ──────────────▲

    vae, unet                   of Stable Diffusion, or small ones of the same classes
    control                     ControlModule; its configuration holds the defaults that it was trained for
    scheduler                   any of diffusers' that fits what the UNet predicts, used as it is
    text_encoder, tokenizer     of Stable Diffusion; without them every image gets the same, empty text features
    captioner, caption_processor  Blip2ForConditionalGeneration and its processor; without them only given prompts count
    defaults                    what calls use unless they say otherwise, in place of the control module's own: any of
                                num_inference_steps, strength, colour_fix; of a flow also start_noise

    Where the defaults hold ``start_noise`` the UNet predicts the velocity of a flow from the initial reconstruction to the
    refined image, and the number of steps is the one that it was trained for. ``start_noise`` is the deviation of the noise
    that is added to the latent of the initial reconstruction at the start. Elsewhere the UNet predicts noise, as in
    Stable Diffusion.

    Everything that diffusers' pipelines have works: `from_pretrained`, `save_pretrained`, `from_pipe`, swapped components, CPU
    offload. ``DiffusionPipeline.from_pretrained`` finds this class once ``diffjscc.refine`` is imported.

    ``whole_pixels`` is the memory budget: larger images are refined in tiles.
    ``caption_failures`` counts the images that were refined without text because the captioner failed.

    Calls may run at the same time in several threads if they use the same guidance_scale; ``interrupt`` stops all of them.

    Example:
        refiner = load_refiner("mini")
        refined = refiner(image, snr_db=1.0, generator=torch.Generator().manual_seed(0)).images[0]
    """

    # The control module is missing on purpose: it alternates with the UNet, so it stays on the GPU until a call ends.
    model_cpu_offload_seq = "captioner->text_encoder->unet->vae"
    # BLIP-2 generates text outside its `forward`, where sequential offload would leave it without weights.
    _exclude_from_cpu_offload = ["captioner"]
    _optional_components = ["text_encoder", "tokenizer", "captioner", "caption_processor"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    # diffusers' from_pipe takes over a component only if its class is named here.
    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        unet: UNet2DConditionModel | SmoothUNet,
        control: ControlModule,
        scheduler: SchedulerMixin,
        text_encoder: PreTrainedModel | None = None,
        tokenizer=None,
        captioner=None,
        caption_processor=None,
        defaults: dict | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            control=control,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            captioner=captioner,
            caption_processor=caption_processor,
        )
        self.register_to_config(defaults=defaults)
        unknown = self.defaults.keys() - {*DEFAULTS, FLOW_DEFAULT}
        if unknown:
            raise ValueError(f"defaults hold '{min(unknown)}': choose from {', '.join((*DEFAULTS, FLOW_DEFAULT))}")
        self.image_processor = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_rgb=True)
        self.whole_pixels = WHOLE_PIXELS
        self.caption_failures = 0
        self._captions: OrderedDict[bytes, str] = OrderedDict()
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._features_of: tuple = (None, None)
        self._warned: set[str] = set()
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False
        self.set_progress_bar_config(disable=True)

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """diffusers' `from_pipe`, but the networks keep their type unless a dtype is given: they are shared, not copied."""
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = pipeline.unet.dtype
        return super().from_pipe(pipeline, **kwargs)

    @property
    def defaults(self) -> dict[str, Any]:
        """What a call uses where it does not say: the pipeline's own, else the control module's, else the paper's values."""
        return {**DEFAULTS, **(self.control.config.get("defaults") or {}), **(self.config.defaults or {})}

    @property
    def is_flow(self) -> bool:
        """Whether the UNet predicts the velocity of a flow; else it predicts noise."""
        return FLOW_DEFAULT in self.defaults

    @property
    def downsampling(self) -> int:
        """Pixels per value of the latent, along each side."""
        if hasattr(self.vae.config, "decoder_block_out_channels"):
            return 2 ** (len(self.vae.config.decoder_block_out_channels) - 1)
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def granularity(self) -> int:
        """Sides of an image are padded to a multiple of this, pixels."""
        return self.downsampling * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call that runs takes no further step: set ``_interrupt``, from a callback or another thread.

        The call then returns what its steps so far have made. To give up a call at once, raise an error from its callback.
        """
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: PipelineImageInput,
        snr_db: float | Sequence[float] | Tensor | None,
        prompt: str | list[str] | None = None,
        *,
        strength: float | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        generator: Generators = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        controlnet_conditioning_scale: float = 1.0,
        latent_guidance: LatentGuidance | None = None,
        range_null: RangeNull | None = None,
        use_snr: bool = True,
        use_text: bool = True,
        colour_fix: str | None = None,
        tile: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict | None] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput:
        """Initial reconstructions to refined images.

        image            initial reconstructions of one size, each side at least 16 pixels: PIL images, arrays (H, W, 3), uint8
                         or float in [0, 1], or float tensors (3, H, W) in [0, 1]; one, a list, or a batch (N, …)
        snr_db           at which they were received, dB: one for all or one each; None where it is not known
        prompt           what they show, one for all or one each; default: a caption where there is a captioner, else none
        strength         in (0, 1]. A diffusion starts at the initial reconstruction with noise of that share of the
                         timesteps, and takes that share of the steps; 1 starts from pure noise. A flow ends that share of
                         the way from the initial reconstruction
        num_inference_steps  steps for strength 1; a flow takes only the number that it was trained for
        sampler          a name of `samplers.make_sampler`, used in place of the scheduler, with its noise schedule; default:
                         the pipeline's scheduler as it is
        guidance_scale   of classifier-free guidance by the text, against the negative prompt; 1 or less is none
        generator        one for all, or one each, which makes an image independent of its batch
        prompt_embeds, negative_prompt_embeds  text features (N, L, D) in place of prompts, as `encode_prompt` returns them
        controlnet_conditioning_scale  factor on the control module's outputs; 0 leaves it out
        latent_guidance  a pull towards the initial reconstruction
        range_null       takes over what the initial reconstruction has in the range of an operator, in pixels, at every step of a
                         diffusion; with controlnet_conditioning_scale = 0 this is DDNM on the UNet as it was before it was steered
        use_snr, use_text  False leaves out what the paper's ablation leaves out
        colour_fix       "none", "wavelet" or "adain"
        tile             side of the tiles in which the networks run, pixels; default: the whole image at once, or tiles of
                         512 where it has more than ``whole_pixels`` or does not fit in the memory of a GPU
        output_type      "pil"; "np", float32 (N, H, W, 3); "pt", float32 (N, 3, H, W), both in [0, 1]; or "latent", the scaled
                         latents of the padded images
        callback_on_step_end  called as (pipeline, step, timestep, {name: tensor}) after each step, with the tensors that
                         callback_on_step_end_tensor_inputs names; may return new ones

        Where strength, num_inference_steps or colour_fix is not given, ``defaults`` says. Returns an output with ``images``, or
        the tuple (images,) unless return_dict. Raises ValueError for bad input.
        """
        options = self.defaults
        for name, value in (("strength", strength), ("num_inference_steps", num_inference_steps), ("colour_fix", colour_fix)):
            options[name] = options[name] if value is None else value
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        images = image_batch(image, self.image_processor).to(self._execution_device)
        snr = snr_batch(snr_db if use_snr else None, len(images), images.device)
        self.check_inputs(options, sampler, latent_guidance, tile, output_type, callback_on_step_end_tensor_inputs, range_null)
        self._check_text(len(images), prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guidance_scale)
        if isinstance(generator, list):
            generator = one_each(generator, len(images), "generators")
        if tile is None and images.shape[-2] * images.shape[-1] > self.whole_pixels:
            tile = FALLBACK_TILE
        self._interrupt = False
        if not use_text:
            prompt, prompt_embeds = "", None
        prompts = self._prompts(images, prompt) if prompt_embeds is None else None

        def refine(tile: int | None) -> Tensor:
            self._guidance_scale = guidance_scale
            embeds = self.encode_prompt(
                prompts, self.do_classifier_free_guidance, negative_prompt, prompt_embeds, negative_prompt_embeds
            )
            padded = self.pad(images)
            f_s = self.encode(padded, tile)
            scheduler = make_sampler(self.scheduler, sampler, options["num_inference_steps"], self.is_flow)
            timesteps = self._timesteps(scheduler, options)
            self._num_timesteps = len(timesteps)
            condition = Condition(f_s, snr, *embeds, controlnet_conditioning_scale, tile)
            latents = self.prepare_latents(scheduler, timesteps, f_s, options, generator)
            extra = step_options(scheduler, generator)
            for step, timestep in enumerate(self.progress_bar(timesteps)):
                if self.interrupt:
                    break
                model_input = _scaled(scheduler, latents, timestep)
                output = self._predict(model_input, timestep, condition)
                if range_null is not None:
                    output = self._take_over(range_null, padded, scheduler, output, timestep, model_input, tile)
                latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
                if latent_guidance is not None:
                    original = predicted_original(scheduler, output, timestep, model_input)
                    shift = latent_guidance.shift(original, f_s, int(timestep))
                    latents = shift_sample(scheduler, latents, timestep, shift)
                if callback_on_step_end is not None:
                    tensors: dict[str, Any] = {"latents": latents, **condition.texts}
                    given = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, timestep, given) or {}
                    latents = tensors["latents"]
                    condition = replace(condition, **{name: tensors[name] for name in condition.texts})
            if output_type == "latent":
                return latents
            return self._finish(latents, images, options, tile)

        refined = self._within_memory(refine, tile, generator)
        self.maybe_free_model_hooks()
        output = self.image_processor.postprocess(refined, output_type)
        return ImagePipelineOutput(output) if return_dict else (output,)

    def check_inputs(
        self,
        options: dict[str, Any],
        sampler: str | None,
        latent_guidance: LatentGuidance | None,
        tile: int | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
        range_null: RangeNull | None = None,
    ) -> None:
        """Raises ValueError for what no image makes right; options: as `defaults`."""
        strength, steps, usual = options["strength"], options["num_inference_steps"], self.defaults["num_inference_steps"]
        if not 0 < strength <= 1:
            raise ValueError(f"strength = {strength}: must be above 0 and at most 1")
        if self.is_flow and steps != usual:
            raise ValueError(f"num_inference_steps = {steps}: this refiner is a flow trained for {usual}: leave it out")
        scheduler = make_sampler(self.scheduler, sampler, steps, self.is_flow)
        if latent_guidance is not None:
            check_shiftable(scheduler)
        if range_null is not None and self.is_flow:
            raise ValueError("range_null needs a refiner that predicts noise, as Stable Diffusion does: this one is a flow")
        if range_null is not None and self.granularity % range_null.factor:
            raise ValueError(f"range_null with factor {range_null.factor}: must divide {self.granularity} for this refiner")
        if options["colour_fix"] not in COLOUR_FIXES:
            raise ValueError(f"colour_fix '{options['colour_fix']}': choose from {', '.join(COLOUR_FIXES)}")
        unit = 4 * self.granularity
        if tile is not None and (tile < unit or tile % unit):
            raise ValueError(f"tile = {tile}: must be a multiple of {unit} pixels for this refiner")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type '{output_type}': choose from {', '.join(OUTPUT_TYPES)}")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs has '{min(unknown)}': choose from {known}")

    def _check_text(
        self, count: int, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guidance_scale: float
    ) -> None:
        for name, embeds in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
            if embeds is not None and len(embeds) != count:
                raise ValueError(f"{name} holds {len(embeds)} texts for {count} images: give one each")
        if prompt is not None and prompt_embeds is not None:
            raise ValueError("prompt and prompt_embeds are both given: give one of them")
        if negative_prompt and negative_prompt_embeds is not None:
            raise ValueError("negative_prompt and negative_prompt_embeds are both given: give one of them")
        if guidance_scale <= 1 and (negative_prompt or negative_prompt_embeds is not None):
            raise ValueError("negative_prompt has no effect without guidance: give a guidance_scale above 1, or leave it out")
        if guidance_scale > 1 and self.text_encoder is None and prompt_embeds is None:
            raise ValueError(
                f"guidance_scale = {guidance_scale}: this refiner has no text encoder, so that guidance has no effect: leave it out"
            )

    def _prompts(self, images: Tensor, prompt: str | list[str] | None) -> list[str]:
        """One prompt per image: the given ones, or captions, which are kept by image."""
        if prompt is not None:
            return one_each(prompt, len(images), "prompts")
        if self.captioner is None:
            return [""] * len(images)
        keys = [hashlib.sha256(image.cpu().numpy().tobytes()).digest() for image in images]
        return [_kept(self._captions, key, partial(self._caption, image)) for key, image in zip(keys, images)]

    def _caption(self, image: Tensor) -> str:
        try:
            return caption(self.captioner, self.caption_processor, image[None], self._execution_device)[0]
        except CaptionFailed as error:
            self.caption_failures += 1
            self._warn_once(f"captioner failed, refining without text ({error})")
            return ""

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        do_classifier_free_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """f_l (N, L, D) of the prompts, each encoded once, and of the negative prompts, which is None without guidance.

        Features that are given are returned as they are, on the networks' device. Raises ValueError for words where there is no
        text encoder or tokenizer.
        """
        if prompt_embeds is None:
            prompt_embeds = self._text_features(prompt or "")
        elif prompt_embeds.ndim != 3 or prompt_embeds.shape[-1] != self.unet.config.cross_attention_dim:
            wanted = self.unet.config.cross_attention_dim
            raise ValueError(f"prompt_embeds is {tuple(prompt_embeds.shape)}: expected (N, L, {wanted})")
        if not do_classifier_free_guidance:
            return prompt_embeds.to(self._execution_device, self.unet.dtype), None
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self._text_features(one_each(negative_prompt or "", len(prompt_embeds), "negative prompts"))
        if negative_prompt_embeds.shape != prompt_embeds.shape:
            given, wanted = tuple(negative_prompt_embeds.shape), tuple(prompt_embeds.shape)
            raise ValueError(f"negative_prompt_embeds is {given}: expected {wanted}, as prompt_embeds")
        both = (prompt_embeds, negative_prompt_embeds)
        positive, negative = (x.to(self._execution_device, self.unet.dtype) for x in both)
        return positive, negative

    def _text_features(self, prompts: str | list[str]) -> Tensor:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if self.text_encoder is None:
            if any(prompts):
                raise ValueError("this refiner has no text encoder, so that it takes no prompt: leave it out")
            return torch.zeros(len(prompts), 1, self.unet.config.cross_attention_dim)
        source = (self.text_encoder, self.tokenizer)
        if any(old is not new for old, new in zip(self._features_of, source)):
            # Of another text encoder: components may be swapped.
            self._features.clear()
            self._features_of = source

        def encode(text: str) -> Tensor:
            return text_features(self.text_encoder, self.tokenizer, [text], self._execution_device)[0]

        return torch.stack([_kept(self._features, text, partial(encode, text)) for text in prompts])

    def pad(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) with both sides grown to multiples of ``granularity`` by repeating the last row and column."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.granularity, 0, -height % self.granularity), mode="replicate")

    def encode(self, images: Tensor, tile: int | None = None) -> Tensor:
        """(N, 3, H, W) in [0, 1], sides multiples of ``granularity`` → scaled latent (N, C, h, w), f_s of an initial image."""

        def encoder(pixels: Tensor) -> Tensor:
            encoded = self.vae.encode(pixels)
            return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()

        pixels = (images * 2 - 1).to(self.vae.dtype, memory_format=torch.channels_last)
        return in_tiles(encoder, (pixels,), tile, Fraction(1, self.downsampling)) * self.vae.config.scaling_factor

    def decode(self, latent: Tensor, tile: int | None = None) -> Tensor:
        """Scaled latent (N, C, h, w) → (N, 3, H, W), about [0, 1]."""
        latent = (latent / self.vae.config.scaling_factor).to(self.vae.dtype)
        side = tile and tile // self.downsampling
        return in_tiles(lambda z: self.vae.decode(z).sample, (latent,), side, Fraction(self.downsampling)) / 2 + 0.5

    def _timesteps(self, scheduler, options: dict[str, Any]) -> Tensor:
        """Those of the scheduler's timesteps that are walked: a diffusion of strength below 1 begins further on."""
        if self.is_flow:
            return scheduler.timesteps
        steps = options["num_inference_steps"]
        first = (steps - max(1, round(steps * options["strength"]))) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler.timesteps[first:]

    def prepare_latents(
        self, scheduler, timesteps: Tensor, f_s: Tensor, options: dict[str, Any], generator: Generators = None
    ) -> Tensor:
        """The first sample, float32 (N, C, h, w)."""
        f_s = f_s.float()
        noise = randn_tensor(f_s.shape, generator=generator, device=f_s.device, dtype=torch.float32)
        if self.is_flow:
            return f_s + options[FLOW_DEFAULT] * noise
        if options["strength"] == 1:
            return noise * scheduler.init_noise_sigma
        return scheduler.add_noise(f_s, noise, timesteps[:1].repeat(len(f_s)))

    def predict(
        self,
        z: Tensor,
        timestep: Tensor,
        f_s: Tensor,
        snr: Tensor,
        text: Tensor,
        controlnet_conditioning_scale: float = 1.0,
    ) -> Tensor:
        """One run of control module and UNet: what the UNet predicts, (N, C, h, w).

        z, f_s (N, C, h, w) scaled latents; timestep () or (N,); snr (N,) dB, NaN where not known; text (N, L, D)
        """
        if controlnet_conditioning_scale == 0:
            return self.unet(z, timestep, encoder_hidden_states=text, return_dict=False)[0]
        down, middle = self.control(
            z,
            timestep,
            encoder_hidden_states=text,
            controlnet_cond=f_s,
            conditioning_scale=controlnet_conditioning_scale,
            class_labels=snr * SNR_SCALE,
            return_dict=False,
        )
        return self.unet(
            z,
            timestep,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    def _predict(self, z: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """`predict` in tiles, with classifier-free guidance where it is on."""
        inputs: tuple[Tensor, ...] = (z.to(self.unet.dtype), condition.f_s.to(self.unet.dtype))
        text, snr = condition.prompt_embeds, condition.snr
        negative = condition.negative_prompt_embeds if self.do_classifier_free_guidance else None
        if negative is not None:
            inputs = tuple(x.repeat(2, 1, 1, 1) for x in inputs)
            text, snr = torch.cat((text, negative)), snr.repeat(2)
        output = in_tiles(
            lambda z, f_s: self.predict(z, timestep.to(z.device), f_s, snr, text, condition.scale),
            inputs,
            condition.tile and condition.tile // self.downsampling,
        ).to(z.dtype)
        if negative is None:
            return output
        wanted, unwanted = output.chunk(2)
        return unwanted + self.guidance_scale * (wanted - unwanted)

    def _take_over(
        self,
        range_null: RangeNull,
        initial: Tensor,
        scheduler,
        output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        tile: int | None,
    ) -> Tensor:
        """The output that implies the clean latent corrected in pixels: z₀ ─► VAE decoder ─► `RangeNull` ─► VAE encoder ─► z₀."""
        original = predicted_original(scheduler, output, timestep, sample)
        corrected = range_null.correct(self.decode(original, tile).float(), initial.float())
        original = self.encode(corrected, tile).to(sample.dtype)
        return implied_output(scheduler, original, timestep, sample)

    def _finish(self, latents: Tensor, images: Tensor, options: dict[str, Any], tile: int | None) -> Tensor:
        """Decoded and cut to the size of the initial images, a flow as far as strength says; then colours: (N, 3, H, W)."""
        refined = self.decode(latents, tile)[..., : images.shape[-2], : images.shape[-1]].float()
        if self.is_flow:
            refined = images + options["strength"] * (refined - images)
        return COLOUR_FIXES[options["colour_fix"]](refined, images).clamp(0, 1)

    def _within_memory(self, run: Callable[[int | None], Tensor], tile: int | None, generator: Generators) -> Tensor:
        """``run``, again in tiles where memory did not suffice, with the same random numbers."""
        drawn_from = _generators(generator)
        states = [each.get_state() for each in drawn_from]
        try:
            return run(tile)
        except torch.OutOfMemoryError:
            if tile is not None:
                raise ValueError(
                    f"out of GPU memory in tiles of {tile} pixels: give a smaller tile, or fewer images at once"
                ) from None
        # Outside the handler, which would keep the failed run's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn_once(f"out of GPU memory: continuing in tiles of {FALLBACK_TILE} pixels")
        for each, state in zip(drawn_from, states):
            each.set_state(state)
        return self._within_memory(run, FALLBACK_TILE, generator)

    def _warn_once(self, message: str) -> None:
        kind = message.split(":")[0].split("(")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", message)


@dataclass(frozen=True)
class Condition:
    """What the networks are given besides the sample, at every step.

    f_s                     latent of the initial reconstruction (N, C, h, w)
    snr                     (N,) dB, NaN where it is not known
    prompt_embeds           f_l (N, L, D)
    negative_prompt_embeds  the same of the negative prompts; None without guidance
    scale                   factor on the control module's outputs
    tile                    side of the tiles, pixels; None: all at once
    """

    f_s: Tensor
    snr: Tensor
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    scale: float
    tile: int | None

    @property
    def texts(self) -> dict[str, Tensor | None]:
        """What a callback may read and change."""
        return {"prompt_embeds": self.prompt_embeds, "negative_prompt_embeds": self.negative_prompt_embeds}


def _scaled(scheduler, latents: Tensor, timestep: Tensor) -> Tensor:
    """The sample as the networks take it; schedulers of flows have nothing to scale."""
    return scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents


def _kept(cache: OrderedDict, key: Any, compute: Callable[[], Any]) -> Any:
    """What is kept under a key, computed the first time; the oldest make room. Threads may share the cache."""
    value = cache.get(key)
    if value is None:
        value = cache[key] = compute()
    while len(cache) > TEXTS_KEPT:
        cache.popitem(last=False)
    return value


def _generators(generator: Generators) -> list[torch.Generator]:
    """What random numbers are drawn from; without a generator that is torch's own, of each device."""
    if generator is None:
        return [torch.default_generator, *torch.cuda.default_generators]
    return generator if isinstance(generator, list) else [generator]
