# SPDX-License-Identifier: GPL-3.0-or-later
"""Latent-diffusion checkpoints, the authors' and Stable Diffusion's own, to diffusers' networks.

The renaming is diffusers' (its single-file loaders); what is added here is the control module's concatenated input and
SNR embedding, configurations read from the authors' config.yaml, and a check that every tensor found its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..weights import check_weights
from .control import ControlModule, control_config

UNET, CONTROL, VAE, TEXT, CODEC = (
    "model.diffusion_model.",
    "control_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "preprocess_model.",
)

#: The control module's own frozen copy of the VAE's encoder.
CONDITION_ENCODER = "cond_encoder."

#: Tensors that a checkpoint may hold and that nothing here needs: schedules, which are computed; a metric's network; the
#: training's averages; what OpenCLIP needs for contrast with images alone.
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

#: Channels of an attention head in OpenCLIP's text encoders.
TEXT_HEAD_CHANNELS = 64

State = dict[str, Tensor]


def split_state(state: State) -> tuple[dict[str, State], list[str]]:
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
        raise ValueError(f"checkpoint holds {len(unknown)} tensors that no network has, such as {min(unknown)}")
    return networks, ignored + _check_condition_encoder(networks.pop(CONDITION_ENCODER), networks[VAE])


def _check_condition_encoder(copy: State, vae: State) -> list[str]:
    """The names of the control module's copy of the VAE's encoder; it must be one, since ours has none of its own."""
    for name, value in copy.items():
        original = vae.get(VAE + name.removeprefix(CONDITION_ENCODER))
        if original is None or original.shape != value.shape or not (value.is_meta or torch.equal(original, value)):
            raise ValueError(f"checkpoint: {name} differs from the VAE's: a condition encoder of its own is not supported")
    return list(copy)


def convert_unet(state: State, config: dict) -> UNet2DConditionModel:
    """config: the checkpoint's "params", with unet_config. state: tensors with their prefix."""
    ours = _unet_config(state, config["unet_config"]["params"])
    converted = _renamed(lambda s: single_file_utils.convert_ldm_unet_checkpoint(s, ours), state, "UNet")
    return _filled(lambda: UNet2DConditionModel(**ours), converted, "UNet")


def convert_control(state: State, config: dict) -> ControlModule:
    """The control module: its first convolution split between z_t and f_s, its SNR embedding renamed."""
    parameters = config["control_stage_config"]["params"]
    if parameters.get("min_snr", 0) != 0 or parameters.get("snr_scale", 100) != 100:
        raise ValueError("control module: min_snr other than 0 or snr_scale other than 100 is not supported")
    rest = {name.removeprefix(CONTROL): value for name, value in state.items()}
    unet = _unet_config(state, parameters, CONTROL)
    first = _take(rest, "input_blocks.0.0.weight", "control module")
    if first.shape[1] != 2 * unet["in_channels"]:
        raise ValueError(f"control module: first convolution takes {first.shape[1]} channels, expected {2 * unet['in_channels']}")
    rest["input_blocks.0.0.weight"], condition = first.chunk(2, dim=1)
    embedding = {
        f"class_embedding.linear_{layer}.{kind}": rest.pop(f"snr_embed.{index}.{kind}")
        for layer, index in ((1, 0), (2, 2))
        for kind in ("weight", "bias")
        if f"snr_embed.{index}.{kind}" in rest
    }
    converted = _renamed(lambda s: single_file_utils.convert_controlnet_checkpoint(s, unet), rest, "control module")
    # One bias serves both halves of the convolution.
    converted["controlnet_cond_embedding.weight"] = condition
    converted["controlnet_cond_embedding.bias"] = torch.zeros_like(rest["input_blocks.0.0.bias"])
    options = control_config(unet, snr=parameters.get("use_snr", True))
    return _filled(lambda: ControlModule(**options), converted | embedding, "control module")


def convert_vae(state: State, config: dict) -> AutoencoderKL:
    parameters = config["first_stage_config"]["params"]["ddconfig"]
    widths = [parameters["ch"] * multiple for multiple in parameters["ch_mult"]]
    ours = {
        "in_channels": parameters["in_channels"],
        "out_channels": parameters["out_ch"],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": parameters["num_res_blocks"],
        "latent_channels": parameters["z_channels"],
        "scaling_factor": config.get("scale_factor", STABLE_DIFFUSION_2["scale_factor"]),
    }
    converted = _renamed(lambda s: single_file_utils.convert_ldm_vae_checkpoint(s, ours), state, "VAE")
    return _filled(lambda: AutoencoderKL(**ours), converted, "VAE")


def convert_text_encoder(state: State) -> CLIPTextModel:
    """OpenCLIP's text encoder up to its last layer but one, whose features the authors and Stable Diffusion 2 use.

    Its sizes are read from its tensors, not from the configuration.
    """
    layers = 1 + max(int(name.split("resblocks.")[1].split(".")[0]) for name in state if "resblocks." in name)
    last = f"{TEXT}transformer.resblocks.{layers - 1}."
    used = {name: value for name, value in state.items() if not name.startswith(last)}
    words, width = state[TEXT + "token_embedding.weight"].shape
    ours = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=len(state[TEXT + "transformer.resblocks.0.mlp.c_fc.bias"]),
        num_hidden_layers=layers - 1,
        num_attention_heads=max(1, width // TEXT_HEAD_CHANNELS),
        max_position_embeddings=len(state[TEXT + "positional_embedding"]),
        hidden_act="gelu",
        projection_dim=width,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=0,
    )
    with init_empty_weights():
        model = CLIPTextModel(ours)
    converted = _renamed(lambda s: single_file_utils.convert_open_clip_checkpoint(model, s), used, "text encoder")
    if not hasattr(model, "text_model"):
        converted = {name.removeprefix("text_model."): value for name, value in converted.items()}
    return _filled(lambda: model, converted, "text encoder")


def convert_scheduler(config: dict) -> DDPMScheduler:
    """The noise schedule, whose betas' square roots are evenly spaced."""
    return DDPMScheduler(
        num_train_timesteps=config.get("timesteps", 1000),
        beta_start=config["linear_start"],
        beta_end=config["linear_end"],
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if config.get("parameterization") == "v" else "epsilon",
        clip_sample=False,
    )


def convert_codec_config(config: dict) -> dict:
    """Our configuration of the codec that the authors' preprocess_config describes.

    Raises ValueError for a codec that is neither of theirs.
    """
    kind, parameters = config["preprocess_config"]["target"].rsplit(".", 1)[-1], config["preprocess_config"]["params"]
    common = {"snr_range_db": [float(parameters["SNR_low"]), float(parameters["SNR_high"])]}
    if kind == "DeepJSCC":
        kept = {name: parameters[name] for name in ("ngf", "max_ngf_E", "max_ngf_D", "n_blocks_E", "n_blocks_D")}
        return {
            "architecture": "resnet",
            "rate": f"{parameters['C_channel']}/512",
            "csi": parameters.get("channel", "AWGN").lower(),
            **kept,
            **common,
        }
    if kind == "DeepJSCC_SWIN":
        return {
            "architecture": "swin",
            "rate": f"{parameters['bottleneck_dim']}/512",
            "widths": parameters["embed_dims"],
            "depths": parameters["depths"],
            "heads": parameters["num_heads"],
            "window": parameters["window_size"],
            **common,
        }
    raise ValueError(f"codec {config['preprocess_config']['target']} is neither the authors' DeepJSCC nor DeepJSCC_SWIN")


def _unet_config(state: State, parameters: dict, prefix: str = UNET) -> dict:
    widths = [parameters["model_channels"] * multiple for multiple in parameters["channel_mult"]]
    attends = [2**level in parameters["attention_resolutions"] for level in range(len(widths))]
    projection = next((value for name, value in state.items() if name.startswith(prefix) and name.endswith("proj_in.weight")), None)
    return {
        "in_channels": parameters["in_channels"],
        "out_channels": parameters.get("out_channels", parameters["in_channels"]),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": parameters["num_res_blocks"],
        "cross_attention_dim": parameters["context_dim"],
        # diffusers calls the number of heads so.
        "attention_head_dim": [width // parameters["num_head_channels"] for width in widths],
        "use_linear_projection": projection is not None and projection.ndim == 2,
    }


def _renamed(rename: Callable[[State], State], state: State, network: str) -> State:
    """What diffusers makes of ``state``. Raises ValueError where it lacks a tensor, or holds one that is not used.

    diffusers' converters pass over names that they do not know. So the numbers of values before and after are compared;
    where they differ, the unused names are those without which the outcome is the same.
    """
    try:
        converted = {name: value for name, value in rename(dict(state)).items() if value is not None}
    except KeyError as error:
        raise ValueError(f"checkpoint: {network} lacks {error.args[0]}") from None
    if sum(v.numel() for v in state.values()) != sum(v.numel() for v in converted.values()):
        unused = [name for name in state if _outcome(rename, state, without=name) == _outcome(rename, state)]
        if unused:
            raise ValueError(f"checkpoint: {network} holds {len(unused)} tensors of no use, such as {min(unused)}")
    return converted


def _outcome(rename: Callable[[State], State], state: State, without: str | None = None) -> dict | None:
    meta = {name: value.to("meta") for name, value in state.items() if name != without}
    try:
        return {name: value.shape for name, value in rename(meta).items() if value is not None}
    except KeyError:
        return None


def _take(state: State, name: str, network: str) -> Tensor:
    if name not in state:
        raise ValueError(f"checkpoint: {network} lacks {name}")
    return state[name]


def _filled(build: Callable[[], nn.Module], weights: State, network: str) -> nn.Module:
    """The network with these weights in place of its own. Raises ValueError where one is missing, left over or misshapen."""
    with init_empty_weights():
        model = build()
    check_weights(model.state_dict(), weights, f"checkpoint: {network}")
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)
