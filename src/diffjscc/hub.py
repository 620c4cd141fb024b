# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that turns a name or a path into a model.

A model is a folder with a codec (config.json and model.safetensors), a refiner (model_index.json and a folder for each
network, as diffusers writes it), or both, the refiner then in a folder of its own, `refiner`. Names are looked up in
$DIFFJSCC_MODELS (folders, separated as in $PATH), then in the user's cache, then among the models that come with the package.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .air.header import codec_number
from .errors import extra, one_line
from .symbols import parse_rate, parse_snr_db
from .weights import check_finite, check_weights

if TYPE_CHECKING:
    import torch

    from .codec import Codec
    from .refine.pipeline import DiffJSCCPipeline

logger = logging.getLogger(__name__)

DEFAULT_CODEC = "lite"
DEFAULT_REFINER = "mini"

CONFIG, WEIGHTS = "config.json", "model.safetensors"
REFINER_INDEX = "model_index.json"

#: What a model may be called: a folder's name on any system, and no path.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Part = Literal["codec", "refiner"]


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded.

    path     its folder
    codec    the codec's config.json; none where it has no codec
    refiner  the folder of its refiner; none where it has none
    """

    name: str
    path: Path
    codec: dict | None
    refiner: Path | None

    @property
    def rates(self) -> tuple[Fraction, ...]:
        """The codec's rates, ascending, channel uses per pixel; none where there is no codec."""
        return model_rates(self.codec) if self.codec else ()

    @property
    def number(self) -> int:
        """What the air interface calls a codec of this name, 12 bits."""
        return codec_number(self.name)

    @property
    def size(self) -> int:
        """Of its weights, bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*.safetensors"))


@dataclass(frozen=True)
class BrokenModel:
    """A folder among the models that cannot be loaded, and why, in one line."""

    name: str
    path: Path
    reason: str


class _Foreign(ValueError):
    """A folder that holds something else, such as a transformers model."""


def cache_folder() -> Path:
    """Where imported models go."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffjscc" / "models"


def model_folders() -> list[Path]:
    """Where names are looked up, first match first."""
    given = [Path(p) for p in os.environ.get("DIFFJSCC_MODELS", "").split(os.pathsep) if p]
    return [p for p in (*given, cache_folder(), *_bundled_folders()) if os.path.isdir(p)]


def _bundled_folders() -> tuple[Path, Path]:
    package = Path(__file__).parent
    # A wheel carries the models inside the package; a checkout has them beside src/.
    return package / "models", package.parents[1] / "models"


def check_name(name: str) -> str:
    """The name, where a model may be given it. Raises ValueError for a path, and for the name of a bundled model."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"'{one_line(name, 80)}' cannot be a model's name: use at most 64 letters, digits, -, _ and ., first a letter or digit"
        )
    bundled = {DEFAULT_CODEC, DEFAULT_REFINER} | {path.name for folder in _bundled_folders() for path, _ in _models_in(folder)}
    # Some file systems do not tell upper from lower case.
    if name.casefold() in {other.casefold() for other in bundled}:
        raise ValueError(f"'{name}' is the name of a model that comes with diffjscc: choose another")
    return name


def model_rates(config: dict) -> tuple[Fraction, ...]:
    """The rates of a codec, ascending, from its config.json alone. Raises ValueError where it has none."""
    rates = config.get("rates") or [config.get("rate")]
    if not isinstance(rates, list) or rates == [None]:
        raise ValueError("no list of rates, and no rate")
    return tuple(sorted(parse_rate(rate) for rate in rates))


def list_models() -> list[ModelEntry]:
    """Every model that has a name, in the order of lookup; a folder that cannot be loaded is passed over with one warning."""
    entries, broken = survey_models()
    for model in broken:
        if model not in _warned:
            _warned.add(model)
            logger.warning("%s is passed over: %s", model.path, model.reason)
    return entries


#: What was warned of, so that listing again, as receivers do, does not repeat it.
_warned: set[BrokenModel] = set()


def survey_models() -> tuple[list[ModelEntry], list[BrokenModel]]:
    """Every model that has a name, in the order of lookup, and the folders beside them that cannot be loaded."""
    found: dict[str, ModelEntry | BrokenModel] = {}
    foreign = []
    for folder in model_folders():
        for path, entry in _models_in(folder):
            if isinstance(entry, _Foreign):
                foreign.append(BrokenModel(path.name, path, str(entry)))
            else:
                found.setdefault(path.name, entry if isinstance(entry, ModelEntry) else BrokenModel(path.name, path, str(entry)))
    entries = [entry for entry in found.values() if isinstance(entry, ModelEntry)]
    return entries, [entry for entry in found.values() if isinstance(entry, BrokenModel)] + foreign


def find_model(name: str | os.PathLike, part: Part | None = "codec") -> ModelEntry:
    """The model of a name, or in a folder, that has the ``part``. Raises ValueError where there is none, or it is broken."""
    name = os.fspath(name)
    named = [folder / name for folder in model_folders()] if os.path.basename(name) == name and not name.startswith(".") else []
    foreign: ValueError | None = None
    for path in (*named, Path(name)):
        if not name or not _looks_like_a_model(path):
            continue
        try:
            entry = _entry(path)
        except _Foreign as error:
            foreign = foreign or error
            continue
        if part and getattr(entry, part) is None:
            raise ValueError(f"model '{name}' has no {part}: {_known(part)}")
        return entry
    raise foreign or ValueError(f"model '{one_line(name)}' is neither a known name nor a folder with a model: {_known(part)}")


def is_model(path: Path) -> bool:
    """Whether a folder is a model of this package that can be loaded, as far as can be told without its weights."""
    try:
        return _looks_like_a_model(path) and _entry(path) is not None
    except ValueError:
        return False


def _known(part: Part | None) -> str:
    names = ", ".join(entry.name for entry in list_models() if part is None or getattr(entry, part) is not None)
    return f"{part or 'model'}s by name are {names}" if names else f"no {part or 'model'} is installed"


def _models_in(folder: Path) -> Iterator[tuple[Path, ModelEntry | ValueError]]:
    """The folders in ``folder`` that may be models, by name, each with its entry or what is wrong with it."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _looks_like_a_model(path))
    except OSError:
        return
    for path in paths:
        try:
            yield path, _entry(path)
        except ValueError as error:
            yield path, error


def _looks_like_a_model(path: Path) -> bool:
    return os.path.isfile(path / CONFIG) or _refiner_folder(path) is not None


def _refiner_folder(path: Path) -> Path | None:
    return next((p for p in (path, path / "refiner") if os.path.isfile(p / REFINER_INDEX)), None)


def _entry(path: Path) -> ModelEntry:
    """The model in a folder. Raises _Foreign where neither part is ours, and ValueError where one is broken."""
    codec, refiner, foreign = None, _refiner_folder(path), None
    if refiner is not None:
        kind = _read_json(refiner / REFINER_INDEX).get("_class_name")
        if kind != "DiffJSCCPipeline":
            foreign, refiner = (
                f"{path} holds no refiner of this package: its {REFINER_INDEX} is of {one_line(repr(kind), 40)}",
                None,
            )
    if os.path.isfile(path / CONFIG):
        codec = _read_json(path / CONFIG)
        if not isinstance(codec.get("architecture"), str):
            foreign, codec = f'{path} holds no codec of this package: its {CONFIG} has no "architecture"', None
        else:
            _check_codec(path, codec)
    if codec is None and refiner is None:
        raise _Foreign(foreign)
    # Not resolved: a symbolic link among the models is found under its own name.
    return ModelEntry(os.path.basename(os.path.abspath(path)), path, codec, refiner)


def _check_codec(path: Path, config: dict) -> None:
    """Raises ValueError where a codec's folder cannot be used, as far as can be told without its weights."""
    if not os.path.isfile(path / WEIGHTS):
        raise ValueError(f"model folder {path} lacks {WEIGHTS}")
    try:
        model_rates(config)
        low, high = (parse_snr_db(end, "snr_range_db") for end in config.get("snr_range_db", (0, 0)))
        if low > high:
            raise ValueError(f"snr_range_db = [{low}, {high}]: the lower end comes first")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / CONFIG}: {one_line(error)}") from None


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({one_line(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, expected an object with named values")
    return content


def load_codec(
    name: str | os.PathLike = DEFAULT_CODEC,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Codec:
    """A codec ready to encode and decode.

    name    a name of `diffjscc models`, or a folder
    device  "cpu", "cuda", …
    dtype   torch.float32 or torch.bfloat16; default: bfloat16 where the device computes in it natively

    Raises ValueError where there is no such model or device, or the weights do not fit the configuration or are no numbers.
    """
    import torch
    from safetensors.torch import load_file

    device = check_device(device)
    entry = find_model(name)
    file = entry.path / WEIGHTS
    try:
        stored = load_file(file)
    except Exception as error:
        raise ValueError(f"{file}: damaged or cut short ({one_line(error)})") from None
    # The shapes first, without memory: a configuration may ask for a network of any size.
    with torch.device("meta"):
        expected = _build(entry).state_dict()
    check_weights(expected, stored, file)
    check_finite(stored, file)
    codec = _build(entry)
    codec.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in stored.items()})
    codec.name = entry.name
    codec.eval().requires_grad_(False)
    codec.to(device, dtype or default_dtype(device))
    return codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _build(entry: ModelEntry) -> Codec:
    from .codec import build_codec

    try:
        return build_codec(entry.codec or {})
    except Exception as error:
        # Values of a wrong type or size meet the layers of the network, which raise what they like.
        raise ValueError(f"{entry.path / CONFIG}: {one_line(error)}") from None


def load_refiner(
    name: str | os.PathLike = DEFAULT_REFINER,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    captioner: str | os.PathLike | None = None,
) -> DiffJSCCPipeline:
    """A refiner ready to run, with the arguments of `load_codec`; dtype may be torch.float16 too.

    captioner  BLIP-2 that captions images for refiners that take text: a folder, or an id on the hub

    Raises ValueError where there is no such model or device, its weights do not fit its configuration, or what refining needs is
    not installed.
    """
    device = check_device(device)
    folder = find_model(name, "refiner").refiner
    assert folder is not None
    with extra("refine", "refining"):
        from .refine.loading import load_pipeline

    dtype = dtype or default_dtype(device)
    pipeline = load_pipeline(folder, device, dtype)
    if captioner is not None:
        from .refine.captions import load_captioner

        model, processor = load_captioner(captioner, device, dtype)
        pipeline.register_modules(captioner=model, caption_processor=processor)
    return pipeline


def check_device(device: str | torch.device) -> torch.device:
    """A device of that name to compute on. Raises ValueError where torch knows none, or it is not available here."""
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device '{device}' is unknown to torch: write cpu, cuda or cuda:1") from None
    try:
        if found.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(1, device=found)
    except Exception as error:
        raise ValueError(f"device '{device}' is not available here ({one_line(error, 100)}): choose another, such as cpu") from None
    return found


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
    """Writes config.json and model.safetensors, float16; each file appears whole or not at all.

    Raises ValueError where a weight is no number, or float16 cannot hold it.
    """
    import torch
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in codec.state_dict().items()
    }
    check_finite(codec.state_dict(), f"codec '{codec.name}'")
    partial = folder / f".{WEIGHTS}.part"
    partial.write_bytes(save(weights, metadata={"format": "pt"}))
    os.replace(partial, folder / WEIGHTS)
    partial = folder / f".{CONFIG}.part"
    partial.write_text(json.dumps({"architecture": codec.architecture, **codec.config}, indent=2) + "\n")
    os.replace(partial, folder / CONFIG)
