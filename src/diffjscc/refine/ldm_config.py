# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration beside a latent-diffusion checkpoint (config.yaml), read with every value checked.

A configuration comes from outside, and networks are built from it. So each value is taken by its type and range, those that
would change what a network computes in a way that is not supported are refused, and an error names file and key.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import one_line

#: No configuration is larger than this, bytes.
MAX_BYTES = 1 << 20

#: Groups of every group norm, which all widths must be multiples of.
NORM_GROUPS = 32

#: Largest width, number of levels and of blocks on a level: several times those of Stable Diffusion and of the authors' codecs.
MAX_WIDTH, MAX_LEVELS, MAX_BLOCKS = 8192, 8, 32

#: SNRs beyond this are mistakes, dB.
MAX_SNR_DB = 100

_REQUIRED = object()


class Section:
    """A mapping of a configuration, which knows where it is: errors begin with file and key.

    values  the mapping
    file    that it was read from; "" where there is none
    keys    that lead to it
    """

    def __init__(self, values: object, file: str = "", keys: tuple[str, ...] = ()):
        self._file, self._keys = file, keys
        if not isinstance(values, Mapping):
            raise ValueError(f"{self.path()}: {_shown(values)} is not a section with named values")
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def path(self, *key: str) -> str:
        """Where this section is, or a key in it, for errors."""
        keys = ".".join((*self._keys, *key))
        return f"{self._file}: {keys}" if self._file and keys else self._file or keys

    def refuse(self, key: str, expected: str) -> ValueError:
        """The error for a value that is not as expected."""
        return ValueError(f"{self.path(key)} is {_shown(self._values.get(key))}, expected {expected}")

    def section(self, key: str) -> Section:
        """The section under a key of this one."""
        return Section(self.value(key), self._file, (*self._keys, key))

    def value(self, key: str, default: object = _REQUIRED) -> Any:
        """The value as it is."""
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise ValueError(f"{self.path(key)} is missing")
        return default

    def integer(self, key: str, low: int, high: int, default: object = _REQUIRED, multiple: int = 1) -> int:
        """A whole number from ``low`` to ``high``, a multiple of ``multiple``."""
        value = self.value(key, default)
        if not _is_integer(value, low, high) or value % multiple:
            kind = "a whole number" if multiple == 1 else f"a multiple of {multiple}"
            raise self.refuse(key, f"{kind} from {low} to {high}")
        return value

    def integers(self, key: str, low: int, high: int, most: int = MAX_LEVELS, least: int = 1) -> list[int]:
        """A list of ``least`` to ``most`` whole numbers, each from ``low`` to ``high``."""
        values = self.value(key)
        right = isinstance(values, list | tuple) and least <= len(values) <= most
        if not right or not all(_is_integer(value, low, high) for value in values):
            count = f"{least}" if least == most else f"{least} to {most}"
            raise self.refuse(key, f"a list of {count} whole numbers from {low} to {high}")
        return list(values)

    def number(self, key: str, low: float, high: float, default: object = _REQUIRED) -> float:
        """A number from ``low`` to ``high``."""
        value = self.value(key, default)
        try:
            # YAML reads 1e-4, without a point, as text.
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not low <= number <= high:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return number

    def choice(self, key: str, *allowed: object, default: object = None) -> Any:
        """One of the values that are supported; the default where the key is not there."""
        value = self.value(key, default)
        # Compared with its type: True is not 1, and a list cannot be looked up in a set.
        if not any(type(value) is type(other) and value == other for other in (*allowed, default)):
            raise self.refuse(key, " or ".join("null" if other is None else str(other) for other in allowed))
        return value

    def target(self, *allowed: str) -> str | None:
        """The class that this section configures, without its module; none where the file does not say."""
        if "target" not in self._values:
            return None
        name = self._values["target"]
        kind = name.rsplit(".", 1)[-1] if isinstance(name, str) else None
        if kind not in allowed:
            raise self.refuse("target", " or ".join(allowed))
        return kind


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _shown(value: object) -> str:
    """A value for an error's line, however large or nested it is."""
    try:
        return one_line(reprlib.repr(value), 80)
    except ValueError:
        # A number of more digits than Python writes.
        return f"a {type(value).__name__}"


def read_config(file: Path) -> Section:
    """The model's section of a configuration: {target: …, params: …}, alone or under "model".

    Raises ValueError where the file is none.
    """
    try:
        if os.path.getsize(file) > MAX_BYTES:
            raise ValueError(f"it has {os.path.getsize(file)} bytes, a configuration at most {MAX_BYTES}")
        content = yaml.safe_load(file.read_bytes())
        if not isinstance(content, Mapping):
            raise ValueError(f"it holds {_shown(content)}, not sections")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; a checkpoint comes with its configuration") from None
    except Exception as error:
        raise ValueError(f"{file}: not a latent-diffusion configuration ({one_line(error)})") from None
    section = Section(content, str(file))
    return section.section("model") if "model" in section else section


def as_section(config: Mapping | Section) -> Section:
    """A configuration that may be plain mappings already."""
    return config if isinstance(config, Section) else Section(config)


def check_refiner(config: Section) -> None:
    """Raises ValueError where the networks of a refiner are not described, or not supported; config: "params"."""
    for read in (scheduler_parameters, vae_parameters, unet_parameters, control_parameters, text_layers_dropped):
        read(config)


def unet_parameters(config: Section) -> dict:
    """diffusers' parameters of the UNet, as far as the configuration knows them; config: a latent-diffusion model's "params"."""
    stage = config.section("unet_config")
    stage.target("ControlledUnetModel", "UNetModel")
    return _unet_parameters(stage.section("params"))


def control_parameters(config: Section) -> tuple[dict, bool]:
    """diffusers' parameters of the control module, as those of the UNet, and whether the module is told the SNR."""
    config.choice("only_mid_control", False, default=False)
    stage = config.section("control_stage_config")
    stage.target("ControlNet")
    params = stage.section("params")
    for key, supported in (("min_snr", 0), ("snr_scale", 100)):
        if params.number(key, -math.inf, math.inf, default=supported) != supported:
            raise params.refuse(key, str(supported))
    return _unet_parameters(params), params.choice("use_snr", True, False, default=True)


def _unet_parameters(params: Section) -> dict:
    widths = _widths(params, "model_channels", "channel_mult")
    head = params.integer("num_head_channels", 1, MAX_WIDTH)
    if any(width % head for width in widths):
        raise params.refuse("num_head_channels", f"a divisor of {', '.join(map(str, widths))}, the channels of the levels")
    resolutions = params.integers("attention_resolutions", 1, 1 << MAX_LEVELS, least=0)
    attends = [2**level in resolutions for level in range(len(widths))]
    inputs = params.integer("in_channels", 1, MAX_WIDTH)
    return {
        "in_channels": inputs,
        "out_channels": params.integer("out_channels", 1, MAX_WIDTH, default=inputs),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": params.integer("num_res_blocks", 1, MAX_BLOCKS),
        "cross_attention_dim": params.integer("context_dim", 1, MAX_WIDTH),
        # diffusers calls the number of heads so.
        "attention_head_dim": [width // head for width in widths],
    }


def _widths(params: Section, base: str, multiples: str) -> list[int]:
    """Channels of the levels: a number times each of a list."""
    channels = params.integer(base, NORM_GROUPS, MAX_WIDTH, multiple=NORM_GROUPS)
    widths = [channels * multiple for multiple in params.integers(multiples, 1, MAX_WIDTH)]
    if max(widths) > MAX_WIDTH:
        raise params.refuse(multiples, f"multiples of {base}, {channels}, of at most {MAX_WIDTH} channels")
    return widths


def vae_parameters(config: Section) -> dict:
    """diffusers' parameters of the VAE of a latent-diffusion model's "params"."""
    stage = config.section("first_stage_config")
    stage.target("AutoencoderKL")
    params = stage.section("params").section("ddconfig")
    widths = _widths(params, "ch", "ch_mult")
    config.choice("scale_by_std", False, default=False)
    params.choice("double_z", True, default=True)
    return {
        "in_channels": params.integer("in_channels", 3, 3),
        "out_channels": params.integer("out_ch", 3, 3),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": params.integer("num_res_blocks", 1, MAX_BLOCKS),
        "latent_channels": params.integer("z_channels", 1, MAX_WIDTH),
        "scaling_factor": config.number("scale_factor", 1e-6, 1e6, default=0.18215),
    }


def scheduler_parameters(config: Section) -> dict:
    """diffusers' parameters of the noise schedule, whose betas' square roots are evenly spaced."""
    config.choice("beta_schedule", "linear", default="linear")
    start = config.number("linear_start", 1e-8, 0.999)
    end = config.number("linear_end", 1e-8, 0.999)
    if start > end:
        raise config.refuse("linear_end", f"at least linear_start, {start:g}")
    kind = config.choice("parameterization", "eps", "v", default="eps")
    return {
        "num_train_timesteps": config.integer("timesteps", 1, 10_000, default=1000),
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction" if kind == "v" else "epsilon",
        "clip_sample": False,
    }


def text_layers_dropped(config: Section) -> int:
    """How many of OpenCLIP's last layers the text features leave out: 1 for Stable Diffusion 2."""
    if "cond_stage_config" not in config:
        return 1
    stage = config.section("cond_stage_config")
    stage.target("FrozenOpenCLIPEmbedder")
    if "params" not in stage:
        return 1
    return {"penultimate": 1, "last": 0}[stage.section("params").choice("layer", "penultimate", "last", default="penultimate")]


def codec_config(stage: Section) -> dict:
    """Our configuration of a codec that the authors' configuration describes: {target: …, params: …}.

    Raises ValueError for a codec that is neither of theirs, or that ours computes otherwise.
    """
    kind, params = stage.target("DeepJSCC", "DeepJSCC_SWIN"), stage.section("params")
    if kind is None:
        raise ValueError(f"{stage.path('target')} is missing: expected DeepJSCC or DeepJSCC_SWIN")
    ends = [params.number(key, -MAX_SNR_DB, MAX_SNR_DB) for key in ("SNR_low", "SNR_high")]
    if ends[0] > ends[1]:
        raise params.refuse("SNR_high", f"at least SNR_low, {ends[0]:g} dB")
    convert = _resnet_config if kind == "DeepJSCC" else _swin_config
    return {**convert(params), "snr_range_db": ends}


def _resnet_config(params: Section) -> dict:
    for key, value in (("n_downsample", 4), ("input_nc", 3), ("output_nc", 3)):
        params.integer(key, value, value, default=value)
    params.choice("norm", "batch", default="batch")
    return {
        "architecture": "resnet",
        "rate": f"{params.integer('C_channel', 2, 512, multiple=2)}/512",
        "csi": params.choice("channel", "AWGN", "Rayleigh", default="AWGN").lower(),
        **{key: params.integer(key, 1, MAX_WIDTH) for key in ("ngf", "max_ngf_E", "max_ngf_D")},
        **{key: params.integer(key, 0, MAX_BLOCKS) for key in ("n_blocks_E", "n_blocks_D")},
    }


def _swin_config(params: Section) -> dict:
    params.choice("channel", "AWGN", default="AWGN")
    params.choice("qk_scale", None)
    # The four stages are those between the image and a sixteenth of its resolution.
    widths, depths, heads = (
        params.integers(key, 1, high, most=4, least=4)
        for key, high in (("embed_dims", MAX_WIDTH), ("depths", MAX_BLOCKS), ("num_heads", MAX_WIDTH))
    )
    if any(width % head for width, head in zip(widths, heads)):
        raise params.refuse("num_heads", f"divisors of embed_dims, {widths}")
    for key, mirrored in (("embed_dims_d", widths), ("depths_d", depths), ("num_heads_d", heads)):
        if params.value(key, mirrored[::-1]) != mirrored[::-1]:
            raise params.refuse(key, f"the encoder's in reverse, {mirrored[::-1]}")
    return {
        "architecture": "swin",
        "rate": f"{params.integer('bottleneck_dim', 2, 512, multiple=2)}/512",
        "widths": widths,
        "depths": depths,
        "heads": heads,
        "window": params.integer("window_size", 1, 32),
    }
