# SPDX-License-Identifier: GPL-3.0-or-later
"""The authors' checkpoints, and Stable Diffusion's: from a file or the hub to models that `hub` knows by name."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from .codec import build_codec
from .errors import one_line
from .hub import ModelEntry, cache_folder, find_model, save_codec
from .refine import convert
from .refine.control import ControlModule
from .refine.loading import to_half
from .refine.pipeline import DiffJSCCPipeline
from .weights import check_weights

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

#: Whose tokenizer OpenCLIP's text encoder goes with; a checkpoint holds none.
TOKENIZER = "stabilityai/stable-diffusion-2-1-base"


@dataclass(frozen=True)
class Imported:
    """What an import made: the model, and the checkpoint's tensors that were left out."""

    model: ModelEntry
    ignored: list[str]


def import_checkpoint(
    source: str | os.PathLike, name: str | None = None, tokenizer: str | os.PathLike | None = None, out: Path | None = None
) -> Imported:
    """Turns config.yaml and model.ckpt, in a folder or in a repository of the hub, into a model with codec and refiner.

    source     folder, or id on the hub
    name       of the model; default: the folder's, or the id's last part
    tokenizer  folder or id with a CLIP tokenizer; default: Stable Diffusion 2.1-base's, from the hub where the checkpoint
               comes from there too, else if an earlier download left it; without one the model takes no prompts
    out        folder of models; default: the user's

    Networks are written in float16. Raises ValueError where a file is missing or no checkpoint, a tensor is unknown, missing
    or misshapen, or the hub cannot be reached.
    """
    local = Path(source).exists()
    folder = Path(source) if local else _download(str(source))
    config = _read_config(folder / CONFIG)
    file = next((folder / f for f in CHECKPOINTS if (folder / f).is_file()), None)
    if file is None:
        raise ValueError(f"{folder} holds no {' or '.join(CHECKPOINTS)}")
    networks, ignored = convert.split_state(read_tensors(file))
    codec = networks[convert.CODEC]
    del networks
    name = name or Path(str(source)).resolve().name
    out = out or cache_folder()
    partial = out / f".{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_codec(codec, config, partial)
        del codec
        _write_refiner(file, config, _tokenizer(tokenizer, local), partial / "refiner")
        shutil.rmtree(out / name, ignore_errors=True)
        os.replace(partial, out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Imported(find_model(out / name), ignored)


def pull(name: str, tokenizer: str | os.PathLike | None = None) -> Imported:
    """Fetches a published checkpoint from the hub by name, and imports it. Raises ValueError for another name, or no network."""
    if name not in PUBLISHED:
        raise ValueError(f"'{name}' is not a published checkpoint: choose from {', '.join(PUBLISHED)}")
    return import_checkpoint(f"{PUBLISHER}/{name}", name, tokenizer)


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
        state, _ = convert.split_state(read_tensors(source))
        parameters = _read_config(Path(config)) if config else convert.STABLE_DIFFUSION_2
        unet = convert.convert_unet(state[convert.UNET], parameters)
        vae = convert.convert_vae(state[convert.VAE], parameters)
        text_encoder = convert.convert_text_encoder(state[convert.TEXT])
        tokenizer, scheduler = _tokenizer(None, local=True), convert.convert_scheduler(parameters)
    else:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
            vae = AutoencoderKL.from_pretrained(source, subfolder="vae")
            text_encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder")
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
            scheduler = DDPMScheduler.from_pretrained(source, subfolder="scheduler")
        except OSError as error:
            raise ValueError(f"{source} is not a diffusers folder of Stable Diffusion ({one_line(error)})") from None
        if len(tokenizer) < 3:
            raise ValueError(f"{source} is not a diffusers folder of Stable Diffusion (its tokenizer knows no words)")
    return DiffJSCCPipeline(vae, unet, ControlModule.from_unet(unet, snr), scheduler, text_encoder, tokenizer)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name, mapped from the file where its format allows. Raises ValueError where it is none."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise ValueError(f"{file}: not a checkpoint of plain tensors ({one_line(error)})") from None
    state = state.get("state_dict", state)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _write_refiner(file: Path, config: dict, tokenizer, folder: Path) -> None:
    """Converts and writes one network after the other, so that only one is in memory at a time."""
    steps = {
        "vae": (convert.VAE, convert.convert_vae),
        "unet": (convert.UNET, convert.convert_unet),
        "control": (convert.CONTROL, convert.convert_control),
        "text_encoder": (convert.TEXT, lambda state, _: convert.convert_text_encoder(state)),
    }
    parts = {"scheduler": convert.convert_scheduler(config), "tokenizer": tokenizer}
    for name, (prefix, convert_network) in steps.items():
        # Mapped anew for each network: pages that were read stay in memory until their mapping goes.
        state = convert.split_state(read_tensors(file))[0][prefix]
        # The text encoder may be missing; the others say so themselves.
        network = convert_network(state, config) if state or name != "text_encoder" else None
        if network is not None:
            to_half(network).save_pretrained(folder / name)
            # The pipeline's index wants its class alone.
            network.to("meta")
        parts[name] = network
        del state, network
    for name in ("scheduler", "tokenizer"):
        if parts[name] is not None:
            parts[name].save_pretrained(folder / name)
    DiffJSCCPipeline(**parts).save_config(folder)


def _write_codec(state: convert.State, config: dict, folder: Path) -> None:
    codec = build_codec(convert.convert_codec_config(config))
    state = {name.removeprefix(convert.CODEC): value for name, value in state.items()}
    # What the authors' Swin keeps beside its weights is computed here.
    state = {n: v for n, v in state.items() if n.rsplit(".", 1)[-1] not in ("attn_mask", "relative_position_index")}
    check_weights(codec.state_dict(), state, "checkpoint: codec")
    codec.load_state_dict(state)
    save_codec(codec, folder)


def _read_config(file: Path) -> dict:
    try:
        config = yaml.safe_load(file.read_text())
        return config["model"]["params"] if "model" in config else config["params"]
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; a checkpoint comes with its {CONFIG}") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a latent-diffusion configuration ({one_line(error)})") from None


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    if repository.count("/") != 1:
        raise ValueError(f"{repository}: neither a folder here nor an id on the hub, such as {PUBLISHER}/{PUBLISHED[0]}")
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, *CHECKPOINTS]))
    except Exception as error:
        raise ValueError(f"{repository} cannot be fetched from the hub ({one_line(error)})") from None


def _tokenizer(source: str | os.PathLike | None, local: bool):
    """A CLIP tokenizer; by default, where ``local``, only one that is here already: without a network the hub takes minutes."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(
            source or TOKENIZER, subfolder="" if source else "tokenizer", local_files_only=local and source is None
        )
    except Exception as error:
        if source is None:
            return None
        raise ValueError(f"{source}: no CLIP tokenizer there ({one_line(error)})") from None
    # transformers makes an empty one of a folder without any.
    if len(tokenizer) >= 3:
        return tokenizer
    if source is None:
        return None
    raise ValueError(f"{source}: no CLIP tokenizer there (vocab.json and merges.txt)")
