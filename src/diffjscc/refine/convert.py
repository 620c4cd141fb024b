# SPDX-License-Identifier: GPL-3.0-or-later
"""Latent-diffusion checkpoints, the authors' and Stable Diffusion's own, to diffusers' networks.

The renaming is diffusers' (its single-file loaders); what is added here is the control module's concatenated input and
SNR embedding, configurations read from the authors' config.yaml, and a check that every tensor found its place.

Where a function takes ``config`` it is a latent-diffusion model's "params", as mappings or as a `Section`; ``where`` begins
the line of an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..errors import one_line
from ..weights import check_weights
from . import ldm_config
from .control import ControlModule, control_config
from .ldm_config import Section, as_section
from .samplers import SpacedDDPMScheduler

UNET, CONTROL, VAE, TEXT, CODEC = (
    "model.diffusion_model.",
    "control_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "preprocess_model.",
)

#: The control module's own frozen copy of the VAE's encoder.
CONDITION_ENCODER = "cond_encoder."

#: Tensors that a checkpoint may hold and that are not needed: noise schedules, which are computed here; the network of a metric;
#: averages of the training; what OpenCLIP only uses to compare text with images.
IGNORED = re.compile(
    r"(model_ema\.|(preprocess_model\.)?lpips_metric\.|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask)$)"
    r"|((sqrt_|log_)?(recip_|recipm1_|one_minus_)?alphas_cumprod(_prev)?|betas|logvar|lvlb_weights|scale_factor"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12]))$"
)

#: Stable Diffusion 2.1-base, for single files that come without a configuration (Stability AI, v2-inference.yaml).
STABLE_DIFFUSION_2 = {
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "timesteps": 1000,
    "scale_factor": 0.18215,
    "unet_config": {
        "params": {
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "attention_resolutions": [4, 2, 1],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 4, 4],
            "num_head_channels": 64,
            "context_dim": 1024,
        }
    },
    "first_stage_config": {
        "params": {
            "embed_dim": 4,
            "ddconfig": {"in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 4},
        }
    },
}

#: Channels of an attention head in OpenCLIP's text encoders, and the most layers that one may have.
TEXT_HEAD_CHANNELS, MAX_TEXT_LAYERS = 64, 64

State = dict[str, Tensor]
Config = Mapping | Section
Network = TypeVar("Network", bound=nn.Module)


def split_state(state: State, where: object = "checkpoint") -> tuple[dict[str, State], list[str]]:
    """A checkpoint's tensors by network (the prefixes above, kept in the names), and the names that were ignored.

    Raises ValueError for a name that is neither.
    """
    prefixes = (UNET, CONTROL, VAE, TEXT, CODEC, CONDITION_ENCODER)
    networks: dict[str, State] = {prefix: {} for prefix in prefixes}
    ignored, unknown = [], []
    for name, value in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if IGNORED.match(name):
            ignored.append(name)
        elif prefix is None:
            unknown.append(name)
        else:
            networks[prefix][name] = value
    if unknown:
        raise ValueError(f"{where} holds {len(unknown)} tensors that no network has, such as {min(unknown)}")
    return networks, ignored + _check_condition_encoder(networks.pop(CONDITION_ENCODER), networks[VAE], where)


def _check_condition_encoder(copy: State, vae: State, where: object) -> list[str]:
    """The names of the control module's copy of the VAE's encoder; it must be one, since ours has none of its own."""
    for name, value in copy.items():
        original = vae.get(VAE + name.removeprefix(CONDITION_ENCODER))
        if original is None or original.shape != value.shape or not (value.is_meta or torch.equal(original, value)):
            raise ValueError(f"{where}: {name} differs from the VAE's: a condition encoder of its own is not supported")
    return list(copy)


def convert_unet(state: State, config: Config, where: object = "checkpoint") -> UNet2DConditionModel:
    """The UNet; state: its tensors, with their prefix."""
    ours = _with_projection(ldm_config.unet_parameters(as_section(config)), state)
    converted = _renamed(lambda s: single_file_utils.convert_ldm_unet_checkpoint(s, ours), state, f"{where}: UNet")
    return _filled(lambda: UNet2DConditionModel(**ours), converted, f"{where}: UNet")


def convert_control(state: State, config: Config, where: object = "checkpoint") -> ControlModule:
    """The control module: its first convolution split between z_t and f_s, its SNR embedding renamed."""
    where = f"{where}: control module"
    parameters, takes_snr = ldm_config.control_parameters(as_section(config))
    rest = {name.removeprefix(CONTROL): value for name, value in state.items()}
    unet = _with_projection(parameters, state)
    first = _take(rest, "input_blocks.0.0.weight", where, dimensions=4)
    if first.shape[1] != 2 * unet["in_channels"]:
        raise ValueError(f"{where}: first convolution takes {first.shape[1]} channels, expected {2 * unet['in_channels']}")
    rest["input_blocks.0.0.weight"], condition = first.chunk(2, dim=1)
    embedding = {
        f"class_embedding.linear_{layer}.{kind}": rest.pop(f"snr_embed.{index}.{kind}")
        for layer, index in ((1, 0), (2, 2))
        for kind in ("weight", "bias")
        if f"snr_embed.{index}.{kind}" in rest
    }
    if not takes_snr:
        # The authors' module has the embedding all the same, and does not use it.
        embedding = {}
    converted = _renamed(lambda s: single_file_utils.convert_controlnet_checkpoint(s, unet), rest, where)
    # One bias serves both halves of the convolution.
    converted["controlnet_cond_embedding.weight"] = condition
    converted["controlnet_cond_embedding.bias"] = torch.zeros_like(_take(rest, "input_blocks.0.0.bias", where))
    options = control_config(unet, snr=takes_snr)
    return _filled(lambda: ControlModule(**options), converted | embedding, where)


def convert_vae(state: State, config: Config, where: object = "checkpoint") -> AutoencoderKL:
    """The VAE; state: its tensors, with their prefix."""
    ours = ldm_config.vae_parameters(as_section(config))
    converted = _renamed(lambda s: single_file_utils.convert_ldm_vae_checkpoint(s, ours), state, f"{where}: VAE")
    return _filled(lambda: AutoencoderKL(**ours), converted, f"{where}: VAE")


def convert_text_encoder(state: State, config: Config | None = None, where: object = "checkpoint") -> CLIPTextModel:
    """OpenCLIP's text encoder up to its last layer but one, whose features Stable Diffusion 2 takes, and the final norm.

    The features are the last layer's where the configuration says so.
    """
    where = f"{where}: text encoder"
    dropped = ldm_config.text_layers_dropped(as_section(config or {}))
    layers = _count_layers(state, where)
    if layers <= dropped:
        raise ValueError(f"{where} has {layers} layers, of which the last {dropped} are left out: nothing remains")
    unused = tuple(f"{TEXT}transformer.resblocks.{layer}." for layer in range(layers - dropped, layers))
    used = {name: value for name, value in state.items() if not name.startswith(unused)}
    words, width = _take(state, TEXT + "token_embedding.weight", where, dimensions=2).shape
    ours: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": len(_take(state, TEXT + "transformer.resblocks.0.mlp.c_fc.bias", where, dimensions=1)),
        "num_hidden_layers": layers - dropped,
        "num_attention_heads": max(1, width // TEXT_HEAD_CHANNELS),
        "max_position_embeddings": len(_take(state, TEXT + "positional_embedding", where, dimensions=2)),
        "hidden_act": "gelu",
        "projection_dim": width,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": 0,
    }

    def build() -> CLIPTextModel:
        return CLIPTextModel(CLIPTextConfig(**ours))

    model = _on_meta(build, where)
    converted = _renamed(lambda s: single_file_utils.convert_open_clip_checkpoint(model, s), used, where)
    if not hasattr(model, "text_model"):
        converted = {name.removeprefix("text_model."): value for name, value in converted.items()}
    return _filled(build, converted, where)


def convert_scheduler(config: Config) -> SpacedDDPMScheduler:
    """The noise schedule, whose betas' square roots are evenly spaced, with the authors' spacing of timesteps."""
    # Schedulers that are made from this one's configuration start at the last timestep too.
    return SpacedDDPMScheduler(**ldm_config.scheduler_parameters(as_section(config)), timestep_spacing="linspace")


def _count_layers(state: State, where: str) -> int:
    """The layers of a text encoder, which its tensors' names count."""
    numbers = {int(found[1]) for name in state if (found := re.search(r"\.resblocks\.(\d{1,4})\.", name))}
    # A name may count to a thousand where there are three layers.
    if not numbers or len(numbers) > MAX_TEXT_LAYERS or numbers != set(range(len(numbers))):
        raise ValueError(f"{where} lacks layers: expected 1 to {MAX_TEXT_LAYERS}, transformer.resblocks.0, .1 and so on")
    return len(numbers)


def _with_projection(parameters: dict, state: State) -> dict:
    """``parameters``, and whether attention's projections are linear layers or convolutions, which only the tensors tell."""
    projection = next((value for name, value in state.items() if name.endswith("proj_in.weight")), None)
    return {**parameters, "use_linear_projection": projection is not None and projection.ndim == 2}


def _renamed(rename: Callable[[State], State], state: State, where: str) -> State:
    """What diffusers makes of ``state``. Raises ValueError where it lacks a tensor, or holds one that is not used.

    diffusers' converters pass over names that they do not know. So they are first tried on tensors that hold the number of
    their name, without memory of their own; a name is used where the outcome holds its number.
    """
    probes = {name: torch.tensor(number).expand(value.shape) for number, (name, value) in enumerate(state.items())}
    used = {value[(0,) * value.ndim].item() for value in _outcome(rename, probes, where).values() if value.numel()}
    unused = [name for number, (name, value) in enumerate(state.items()) if number not in used and value.numel()]
    if unused:
        raise ValueError(f"{where} holds {len(unused)} tensors of no use, such as {min(unused)}")
    return _outcome(rename, state, where)


def _outcome(rename: Callable[[State], State], state: State, where: str) -> State:
    try:
        return {name: value for name, value in rename(dict(state)).items() if value is not None}
    except KeyError as error:
        raise ValueError(f"{where} lacks {error.args[0]}") from None
    except Exception as error:
        raise ValueError(f"{where}: its tensors are not those of such a network ({one_line(error)})") from None


def _take(state: State, name: str, where: str, dimensions: int | None = None) -> Tensor:
    if name not in state:
        raise ValueError(f"{where} lacks {name}")
    if dimensions is not None and state[name].ndim != dimensions:
        raise ValueError(f"{where}: {name} has {state[name].ndim} dimensions, expected {dimensions}")
    return state[name]


def _on_meta(build: Callable[[], Network], where: str) -> Network:
    """The network without memory for its weights. Raises ValueError where there is no such network."""
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:
        raise ValueError(f"{where} of this configuration cannot be built ({one_line(error)})") from None


def _filled(build: Callable[[], Network], weights: State, where: str) -> Network:
    """The network with these weights in place of its own. Raises ValueError where one is missing, left over or misshapen.

    The shapes are checked first, without memory: a configuration may ask for a network of any size.
    """
    model = _on_meta(build, where)
    check_weights(model.state_dict(), weights, where)
    if any(True for _ in model.buffers()):
        # What a network computes for itself, such as positions, needs memory.
        with init_empty_weights():
            model = build()
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)
