# SPDX-License-Identifier: GPL-3.0-or-later
"""The authors' checkpoints, and Stable Diffusion's: from a file or the hub to models that `hub` knows by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from .codec import build_codec
from .errors import one_line
from .folders import new_folder
from .hub import ModelEntry, cache_folder, check_name, find_model, is_model, save_codec, survey_models
from .refine import convert, ldm_config
from .refine.checkpoint_file import read_tensors
from .refine.control import ControlModule
from .refine.ldm_config import Section, read_config
from .refine.loading import to_half
from .refine.pipeline import DiffJSCCPipeline
from .refine.samplers import SpacedDDPMScheduler
from .weights import check_finite, check_weights

#: The checkpoints that the authors publish on the Hugging Face hub.
PUBLISHED = (
    "DiffJSCC-OpenImage-CBR-1-384",
    "DiffJSCC-OpenImage-CBR-1-96",
    "DiffJSCC-CelebA-CBR-1-768",
    "DiffJSCC-CelebA-CBR-1-192",
)
PUBLISHER = "Mingyuyang"

#: Files of a published checkpoint.
CONFIG, CHECKPOINTS = "config.yaml", ("model.ckpt", "model.safetensors")

#: What a checkpoint's "target" may be: the whole system, plain latent diffusion, or a codec alone.
SYSTEMS, CODECS = ("ControlLDM", "LatentDiffusion"), ("DeepJSCC", "DeepJSCC_SWIN")

#: Networks that no refiner can do without; the text encoder may be missing.
REFINER_NETWORKS = {"UNet": convert.UNET, "control module": convert.CONTROL, "VAE": convert.VAE}

#: Whose tokenizer OpenCLIP's text encoder goes with; a checkpoint holds none.
TOKENIZER = "stabilityai/stable-diffusion-2-1-base"


@dataclass(frozen=True)
class Imported:
    """What an import made: the model, what it can do, in a sentence, and the checkpoint's tensors that were left out."""

    model: ModelEntry
    summary: str
    ignored: list[str]


def import_checkpoint(
    source: str | os.PathLike,
    name: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    out: Path | None = None,
    replace: bool = False,
) -> Imported:
    """Turns config.yaml and model.ckpt, in a folder or in a repository of the hub, into a model.

    The model has a codec, a refiner or both, as the checkpoint has.

    source     folder, or id on the hub
    name       of the model; default: the folder's, or the id's last part
    tokenizer  folder or id with a CLIP tokenizer; default: Stable Diffusion 2.1-base's, from the hub where the checkpoint
               comes from there too, else if an earlier download left it; without one the model takes no prompts
    out        folder of models; default: the user's
    replace    whether a model of that name may be replaced; it stays until the new one is complete

    Networks are written in float16. Raises ValueError where the name is none or is taken, a file is missing or no checkpoint, the
    configuration is not supported, a tensor is unknown, missing, misshapen or not finite, the hub cannot be reached, or the
    folder of models cannot be written. Then nothing has changed there.
    """
    out = cache_folder() if out is None else Path(out)
    target = out / _name(name, source)
    _check_free(target, replace)
    local = os.path.exists(source)
    folder = Path(source) if local else _download(str(source))
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give the folder, with {CONFIG} and {' or '.join(CHECKPOINTS)} in it")
    file = next((folder / f for f in CHECKPOINTS if (folder / f).is_file()), None)
    if file is None:
        raise ValueError(f"{folder} holds no {' or '.join(CHECKPOINTS)}")
    config = read_config(folder / CONFIG)
    kind = config.target(*SYSTEMS, *CODECS)
    networks, ignored = convert.split_state(_tensors(file, kind), file)
    has_codec, has_refiner = bool(networks[convert.CODEC]), _has_refiner(networks, file)
    # Told at once, and not after minutes of converting.
    if has_codec:
        ldm_config.codec_config(_codec_stage(config, kind))
    if has_refiner:
        ldm_config.check_refiner(config.section("params"))
    words = len(networks[convert.TEXT].get(f"{convert.TEXT}token_embedding.weight", ()))
    found = _tokenizer(tokenizer, local, words) if has_refiner else None
    del networks
    try:
        with new_folder(target, replace) as partial, _no_progress_bars():
            if has_codec:
                _write_codec(file, config, kind, partial)
            if has_refiner:
                _write_refiner(file, config.section("params"), found, partial / "refiner")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{target} cannot be written ({one_line(error)})") from None
    model = find_model(target, None)
    return Imported(model, _summary(model, words > 0, found is not None), ignored)


def pull(name: str, tokenizer: str | os.PathLike | None = None, replace: bool = False) -> Imported:
    """Fetches a published checkpoint from the hub by name, and imports it. Raises ValueError for another name, or no network."""
    if name not in PUBLISHED:
        raise ValueError(f"'{one_line(name)}' is not a published checkpoint: choose from {', '.join(PUBLISHED)}")
    return import_checkpoint(f"{PUBLISHER}/{name}", name, tokenizer, replace=replace)


def load_stable_diffusion(source: str | os.PathLike, config: str | os.PathLike | None = None, snr: bool = True) -> DiffJSCCPipeline:
    """A refiner to train: Stable Diffusion 2.1-base, and a control module that starts as a copy of its encoder.

    source  diffusers folder, or a single file (.ckpt or .safetensors)
    config  LDM configuration (YAML) of a single file; default: Stable Diffusion 2.1-base's
    snr     whether the control module can be told the SNR

    Raises ValueError where the file is none, or its tensors do not fit.
    """
    source = Path(source)
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    if source.is_file():
        state, _ = convert.split_state(read_tensors(source), source)
        for network in state.values():
            check_finite(network, source)
        parameters = read_config(Path(config)).section("params") if config else convert.STABLE_DIFFUSION_2
        unet = convert.convert_unet(state[convert.UNET], parameters, source)
        vae = convert.convert_vae(state[convert.VAE], parameters, source)
        text_encoder = convert.convert_text_encoder(state[convert.TEXT], parameters, source)
        scheduler = convert.convert_scheduler(parameters)
        tokenizer = _tokenizer(None, local=True, words=text_encoder.config.vocab_size)
    else:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            unet = _whole(UNet2DConditionModel, source, "unet")
            vae = _whole(AutoencoderKL, source, "vae")
            text_encoder = _whole(CLIPTextModel, source, "text_encoder")
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
            spacing = {"timestep_spacing": "linspace", "clip_sample": False}
            scheduler = SpacedDDPMScheduler.from_pretrained(source, subfolder="scheduler", **spacing)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{source} is not a diffusers folder of Stable Diffusion ({one_line(error)})") from None
        if len(tokenizer) < 3:
            raise ValueError(f"{source} is not a diffusers folder of Stable Diffusion (its tokenizer knows no words)")
    return DiffJSCCPipeline(vae, unet, ControlModule.from_unet(unet, snr), scheduler, text_encoder, tokenizer)


def _whole(cls: Any, source: Path, part: str) -> Any:
    """A network from a diffusers folder. Raises ValueError where a tensor is not finite, or is missing: it would be random."""
    network, found = cls.from_pretrained(source, subfolder=part, output_loading_info=True)
    if missing := found["missing_keys"]:
        raise ValueError(f"{source / part} lacks {len(missing)} tensors, such as {min(missing)}")
    check_finite(network.state_dict(), source / part)
    return network


def _name(name: str | None, source: str | os.PathLike) -> str:
    """The name to be given to the model of a source."""
    if name is not None:
        return check_name(name)
    try:
        return check_name(os.path.basename(os.path.abspath(source)))
    except ValueError as error:
        raise ValueError(f"{error} (it is the source's: give a name)") from None


def _check_free(target: Path, replace: bool) -> None:
    """Raises ValueError where something is there that must stay, or another model has the name."""
    for entry in survey_models()[0]:
        if entry.name == target.name and entry.path.parent != target.parent == cache_folder():
            raise ValueError(f"'{entry.name}' is the name of the model in {entry.path}: choose another")
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not is_model(target):
        raise ValueError(f"{target} exists and is no model, so that it is never replaced: choose another name")
    if not replace:
        raise ValueError(f"{target} exists: choose another name, or have it replaced (--replace)")


def _tensors(file: Path, kind: str | None) -> convert.State:
    """A checkpoint's tensors by their names in the whole system."""
    tensors = read_tensors(file)
    if kind not in CODECS:
        return tensors
    # A codec's own training writes it without its prefix in the whole system.
    return {name if name.startswith(convert.CODEC) else convert.CODEC + name: value for name, value in tensors.items()}


def _has_refiner(networks: dict[str, convert.State], file: Path) -> bool:
    """Whether a checkpoint's tensors make up a refiner. Raises ValueError where they are a part of one, or nothing at all."""
    there = [name for name, prefix in REFINER_NETWORKS.items() if networks[prefix]]
    missing = [name for name, prefix in REFINER_NETWORKS.items() if not networks[prefix]]
    if networks[convert.TEXT]:
        there.append("text encoder")
    if there and missing:
        raise ValueError(f"{file} is no refiner: it holds {' and '.join(there)}, but no {' and no '.join(missing)}")
    if not there and not networks[convert.CODEC]:
        raise ValueError(f"{file} holds neither a codec nor a refiner")
    return bool(there)


def _summary(model: ModelEntry, takes_text: bool, takes_prompts: bool) -> str:
    codec, refiner = "no codec, as the checkpoint has none", "no refiner, as the checkpoint has none"
    if model.codec is not None:
        low, high = model.codec["snr_range_db"]
        rate = f"rate {model.rates[0]}, SNR {low:g} to {high:g} dB"
        codec = f"codec ({model.codec['architecture']}, {model.codec.get('csi', 'awgn')}, {rate})"
    if model.refiner is not None:
        text = "takes prompts" if takes_prompts else "takes no prompts: no tokenizer was found" if takes_text else "takes no text"
        refiner = f"refiner ({text})"
    return f"{codec}; {refiner}"


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without transformers' bars about writing a file, which end before they can be read."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _write_refiner(file: Path, config: Section, tokenizer: Any, folder: Path) -> None:
    """Converts and writes one network after the other, so that only one is in memory at a time."""
    steps = {
        "vae": (convert.VAE, convert.convert_vae),
        "unet": (convert.UNET, convert.convert_unet),
        "control": (convert.CONTROL, convert.convert_control),
        "text_encoder": (convert.TEXT, convert.convert_text_encoder),
    }
    parts = {"scheduler": convert.convert_scheduler(config), "tokenizer": tokenizer}
    for name, (prefix, convert_network) in steps.items():
        # Mapped anew for each network: pages that were read stay in memory until their mapping goes.
        state = {name: value for name, value in read_tensors(file).items() if name.startswith(prefix)}
        state = {name: value for name, value in state.items() if not convert.IGNORED.match(name)}
        network: Any = None
        if state or name != "text_encoder":
            check_finite(state, file)
            network = convert_network(state, config, file)
            to_half(network)
            network.save_pretrained(folder / name)
            # The pipeline's index wants its class alone.
            network.to("meta")
        parts[name] = network
        del state, network
    _check_fit(parts, file)
    for name in ("scheduler", "tokenizer"):
        if parts[name] is not None:
            parts[name].save_pretrained(folder / name)
    DiffJSCCPipeline(**parts).save_config(folder)


def _check_fit(parts: dict, file: Path) -> None:
    """Raises ValueError where networks, each right in itself, do not go together."""
    unet, control, vae = (parts[name].config for name in ("unet", "control", "vae"))
    for key in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        if unet[key] != control[key]:
            raise ValueError(f"{file}: UNet and control module differ in {key}: {unet[key]} and {control[key]}")
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        channels = f"{unet.in_channels} to {unet.out_channels}"
        raise ValueError(f"{file}: UNet takes channels {channels}, but the VAE's latent has {vae.latent_channels}")
    text = parts["text_encoder"]
    if text is not None and text.config.hidden_size != unet.cross_attention_dim:
        channels = f"{text.config.hidden_size} channels, but the UNet takes {unet.cross_attention_dim}"
        raise ValueError(f"{file}: text features have {channels}")


def _codec_stage(config: Section, kind: str | None) -> Section:
    """The part of a configuration that describes the codec."""
    return config if kind in CODECS else config.section("params").section("preprocess_config")


def _write_codec(file: Path, config: Section, kind: str | None, folder: Path) -> None:
    ours = ldm_config.codec_config(_codec_stage(config, kind))
    state = {name: value for name, value in _tensors(file, kind).items() if name.startswith(convert.CODEC)}
    # What the authors' Swin keeps beside its weights is computed here.
    computed = ("attn_mask", "relative_position_index")
    state = {n: v for n, v in state.items() if not convert.IGNORED.match(n) and n.rsplit(".", 1)[-1] not in computed}
    check_finite(state, file)
    state = {name.removeprefix(convert.CODEC): value for name, value in state.items()}
    # The shapes first, without memory: a configuration may ask for a network of any size.
    with torch.device("meta"):
        check_weights(build_codec(ours).state_dict(), state, f"{file}: codec")
    codec = build_codec(ours)
    codec.load_state_dict(state)
    save_codec(codec, folder)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository}: neither a folder here nor an id on the hub, such as {PUBLISHER}/{PUBLISHED[0]}")
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, *CHECKPOINTS]))
    except Exception as error:
        raise ValueError(f"{repository} cannot be fetched from the hub ({one_line(error)})") from None


def _tokenizer(source: str | os.PathLike | None, local: bool, words: int):
    """A CLIP tokenizer for a text encoder of so many words.

    Without a ``source`` it is Stable Diffusion's or, where that does not fit or is not to be had, none; where ``local``, only one
    that is here already, as without a network the hub takes minutes. Raises ValueError for a source that is none or does not fit.
    """
    from transformers import CLIPTokenizer

    try:
        if not words:
            raise ValueError("the checkpoint has no text encoder to use it")
        tokenizer = CLIPTokenizer.from_pretrained(
            source or TOKENIZER, subfolder="" if source else "tokenizer", local_files_only=local and source is None
        )
        # transformers makes an empty one of a folder without any.
        if len(tokenizer) < 3:
            raise ValueError("neither vocab.json nor merges.txt")
        if len(tokenizer) > words:
            raise ValueError(f"it knows {len(tokenizer)} words, the text encoder {words}")
    except Exception as error:
        if source is None:
            return None
        raise ValueError(f"{source}: no CLIP tokenizer for this checkpoint ({one_line(error)})") from None
    return tokenizer
