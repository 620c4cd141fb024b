# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that turns a name or a path into a model.

A model is a folder with a codec (config.json and model.safetensors), a refiner (model_index.json and a folder for each
network, as diffusers writes it), or both, the refiner then in a folder of its own, `refiner`. Names are looked up in
$DIFFJSCC_MODELS (folders, separated as in $PATH), then in the user's cache, then among the models that come with the package.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .symbols import parse_rate
from .weights import check_weights

if TYPE_CHECKING:
    import torch

    from .codec import Codec
    from .refine.pipeline import DiffJSCCPipeline

DEFAULT_CODEC = "lite"
DEFAULT_REFINER = "mini"

WEIGHTS = "model.safetensors"
REFINER_INDEX = "model_index.json"


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded.

    path     its folder
    codec    the codec's config.json; none where it has no codec
    refiner  the folder of its refiner; none where it has none
    size     of its weights, bytes
    """

    name: str
    path: Path
    codec: dict | None
    refiner: Path | None
    size: int


def cache_folder() -> Path:
    """Where imported models go."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffjscc" / "models"


def model_folders() -> list[Path]:
    """Where names are looked up, first match first."""
    package = Path(__file__).parent
    given = [Path(p) for p in os.environ.get("DIFFJSCC_MODELS", "").split(os.pathsep) if p]
    # A wheel carries the models inside the package; a checkout has them beside src/.
    return [p for p in (*given, cache_folder(), package / "models", package.parents[1] / "models") if p.is_dir()]


def model_rates(config: dict) -> tuple[Fraction, ...]:
    """The rates of a codec, from its config.json alone."""
    return tuple(sorted(parse_rate(rate) for rate in config.get("rates") or [config["rate"]]))


def list_models() -> list[ModelEntry]:
    """Every model that has a name, in the order of lookup."""
    found: dict[str, ModelEntry] = {}
    for folder in model_folders():
        for path in sorted(p for p in folder.iterdir() if _is_model(p)):
            found.setdefault(path.name, _entry(path))
    return list(found.values())


def find_model(name: str | os.PathLike, part: str = "codec") -> ModelEntry:
    """The model of a name, or in a folder, that has the ``part`` "codec" or "refiner". Raises ValueError where there is none."""
    for path in (*(folder / name for folder in model_folders()), Path(name)):
        if _is_model(path):
            entry = _entry(path)
            if getattr(entry, part) is None:
                raise ValueError(f"model '{name}' has no {part}: {_known(part)}")
            return entry
    raise ValueError(f"model '{name}' is neither a known name nor a folder with a model: {_known(part)}")


def _known(part: str) -> str:
    names = ", ".join(entry.name for entry in list_models() if getattr(entry, part) is not None)
    return f"{part}s by name are {names}" if names else f"no {part} is installed"


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or _refiner_folder(path) is not None


def _refiner_folder(path: Path) -> Path | None:
    return next((p for p in (path, path / "refiner") if (p / REFINER_INDEX).is_file()), None)


def _entry(path: Path) -> ModelEntry:
    refiner, codec = _refiner_folder(path), None
    if (path / "config.json").is_file():
        try:
            codec = json.loads((path / "config.json").read_text())
        except ValueError as error:
            raise ValueError(f"{path / 'config.json'}: not valid JSON ({error})") from None
        if not (path / WEIGHTS).is_file():
            raise ValueError(f"model folder {path} lacks {WEIGHTS}")
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    return ModelEntry(path.resolve().name, path, codec, refiner, size)


def load_codec(
    name: str | os.PathLike = DEFAULT_CODEC,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Codec:
    """A codec ready to encode and decode.

    name    a name of `diffjscc models`, or a folder
    device  "cpu", "cuda", …
    dtype   torch.float32 or torch.bfloat16; default: bfloat16 where the device computes in it natively

    Raises ValueError where there is no such model or its weights do not fit its configuration.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .codec import build_codec

    entry = find_model(name)
    codec = build_codec(entry.codec)
    try:
        stored = load_file(entry.path / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{entry.path / WEIGHTS}: damaged or cut short ({error})") from None
    weights = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    check_weights(codec.state_dict(), weights, entry.path / WEIGHTS)
    codec.load_state_dict(weights)
    codec.name = entry.name
    codec.eval().requires_grad_(False)
    return codec.to(device, dtype or default_dtype(device)).to(memory_format=torch.channels_last)


def load_refiner(
    name: str | os.PathLike = DEFAULT_REFINER,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    captioner: str | os.PathLike | None = None,
) -> DiffJSCCPipeline:
    """A refiner ready to run, with the arguments of `load_codec`; dtype may be torch.float16 too.

    captioner  BLIP-2 that captions images for refiners that take text: a folder, or an id on the hub

    Raises ValueError where there is no such model, or its weights do not fit its configuration.
    """
    entry = find_model(name, "refiner")
    from .refine.loading import load_pipeline

    dtype = dtype or default_dtype(device)
    pipeline = load_pipeline(entry.refiner, device, dtype)
    if captioner is not None:
        from .refine.captions import load_captioner

        model, processor = load_captioner(captioner, device, dtype)
        pipeline.register_modules(captioner=model, caption_processor=processor)
    return pipeline


def default_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it natively, else float32."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def save_codec(codec: Codec, folder: str | os.PathLike) -> None:
    """Writes config.json and model.safetensors, float16; each file appears whole or not at all."""
    import torch
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in codec.state_dict().items()
    }
    for name, value in weights.items():
        if not torch.isfinite(value.float()).all():
            raise ValueError(f"tensor {name} does not fit float16: the training diverged")
    partial = folder / f".{WEIGHTS}.part"
    partial.write_bytes(save(weights, metadata={"format": "pt"}))
    os.replace(partial, folder / WEIGHTS)
    partial = folder / ".config.json.part"
    partial.write_text(json.dumps({"architecture": codec.architecture, **codec.config}, indent=2) + "\n")
    os.replace(partial, folder / "config.json")
