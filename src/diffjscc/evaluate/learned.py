# SPDX-License-Identifier: GPL-3.0-or-later
"""LPIPS, DISTS, FID and KID, which need the weights of other networks: those are looked for, and never downloaded.

The arithmetic is torchmetrics', and Inception's layers are torch-fidelity's. Both are made for torchvision, which needs a build
that matches torch's; here they work without it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import extra, one_line
from .backbones import alexnet_features, vgg16_features

if TYPE_CHECKING:
    from torchmetrics import Metric

logger = logging.getLogger(__name__)

#: Side of the patches that FID and KID compare, half-overlapping, pixels (paper, section IV).
FID_PATCH = 256

#: Features of Inception that FID and KID compare: the last pooling layer's.
FID_FEATURES = 2048

#: Subsets that KID is averaged over, and how many patches each has at most.
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000

#: Files of weights, as torch.hub names them in its cache, and where they come from.
WEIGHTS = {
    "AlexNet": ("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
    "VGG16": ("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"),
    "Inception": (
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
}

#: A measure of two images, float (3, H, W) in [0, 1].
Measure = Callable[[Tensor, Tensor], float]


def find_weights(network: str, folder: str = "") -> Path:
    """The file of a network's weights, in ``folder`` or in torch's cache. Raises ValueError, which says where it comes from."""
    name, url = WEIGHTS[network]
    places = [Path(folder)] if folder else []
    places.append(Path(torch.hub.get_dir()) / "checkpoints")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ValueError(f"the weights of {network} are not in {' or '.join(map(str, places))}: put {url} there")


def load_lpips(net: str = "alex", weights: str = "") -> Measure:
    """LPIPS of torchmetrics on "alex" (AlexNet) or "vgg" (VGG16), lower is better.

    Raises ValueError where the weights are missing or of another network.
    """
    features = _load_features("AlexNet" if net == "alex" else "VGG16", weights)
    with _without_torchvision(features) as (lpips, _):
        network = lpips._NoTrainLpips(net=net)
    return _measure(lambda image, original: network(image, original, normalize=True))


def load_dists(weights: str = "") -> Measure:
    """DISTS of torchmetrics, lower is better. Raises ValueError as `load_lpips` does."""
    features = _load_features("VGG16", weights)
    with _without_torchvision(features) as (_, dists):
        network = dists.DISTSNetwork().eval()
    return _measure(network)


def load_inception(weights: str = "") -> Callable[[Tensor], Tensor]:
    """Inception as FID uses it: patches float (P, 3, H, W) in [0, 1] → features (P, 2048).

    Raises ValueError as `load_lpips` does, or where torch-fidelity is not installed.
    """
    path = find_weights("Inception", weights)
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError("FID and KID need torch-fidelity, which is not installed: pip install --no-deps torch-fidelity")
    import_torchmetrics()
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        # torch-fidelity unpickles whatever the file holds: it is given only what can be loaded without that.
        torch.load(path, map_location="cpu", weights_only=True)
        network = NoTrainInceptionV3("inception-v3-compat", [str(FID_FEATURES)], str(path))
    except Exception as error:
        raise ValueError(f"{path}: not the weights of Inception ({one_line(error, 150)})") from None
    return lambda patches: network((patches * 255).round().byte())


def fid(given: Tensor, wanted: Tensor) -> float:
    """Fréchet distance between the features (P, F) of received patches and of the originals'; NaN for fewer than two."""
    if min(len(given), len(wanted)) < 2:
        return math.nan
    import_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _distance(FrechetInceptionDistance(_Features(given.shape[1])), given, wanted).item()


def kid(given: Tensor, wanted: Tensor, seed: int = 0) -> float:
    """Kernel Inception distance, mean over random subsets, between features (P, F) as in `fid`; NaN for fewer than two."""
    size = min(KID_SUBSET_SIZE, len(given), len(wanted))
    if size < 2:
        return math.nan
    import_torchmetrics()
    from torchmetrics.image.kid import KernelInceptionDistance

    with torch.random.fork_rng([]), warnings.catch_warnings():
        # That it keeps the features is meant so.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        measured = _distance(KernelInceptionDistance(_Features(given.shape[1]), KID_SUBSETS, size), given, wanted)
    return measured[0].item()


def patches(image: Tensor) -> Tensor:
    """Half-overlapping patches of an image (3, H, W) → (P, 3, 256, 256); empty for a smaller one."""
    starts = [range(0, side - FID_PATCH + 1, FID_PATCH // 2) for side in image.shape[-2:]]
    cut = [image[:, y : y + FID_PATCH, x : x + FID_PATCH] for y in starts[0] for x in starts[1]]
    return torch.stack(cut) if cut else image.new_zeros(0, 3, FID_PATCH, FID_PATCH)


def if_available(name: str, load: Callable[[], Any], missing: Callable[[str], None] = logger.info) -> Any:
    """What ``load`` gives, or None where something that it needs is missing, which is told to ``missing`` in one line."""
    try:
        return load()
    except ValueError as error:
        missing(f"no {name}: {one_line(error)}")
        return None


class _Features(nn.Module):
    """Stands for Inception in torchmetrics' distances, which are given features."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _distance(metric: Metric, given: Tensor, wanted: Tensor) -> Any:
    metric.update(wanted, real=True)
    metric.update(given, real=False)
    return metric.compute()


def _measure(network: Callable[..., Tensor]) -> Measure:
    def measure(image: Tensor, original: Tensor) -> float:
        with torch.inference_mode():
            return network(image[None], original[None]).item()

    return measure


def _load_features(network: str, folder: str) -> nn.Sequential:
    """The convolutions of AlexNet or VGG16 with the weights of their file."""
    path = find_weights(network, folder)
    features = alexnet_features() if network == "AlexNet" else vgg16_features()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    # A damaged file raises exceptions of several kinds.
    except Exception as error:
        raise ValueError(f"{path}: not the weights of {network} ({one_line(error, 150)})") from None
    return features.eval()


@contextmanager
def _without_torchvision(features: nn.Sequential) -> Iterator[Sequence[ModuleType]]:
    """torchmetrics' modules of LPIPS and DISTS, which take their networks from torchvision: inside, they are given ``features``."""
    import_torchmetrics()
    from torchmetrics.functional.image import dists, lpips

    constructors: dict[ModuleType, dict[str, Any]] = {
        lpips: {"_get_tv_model_features": lambda net, pretrained=False: features},
        dists: {
            "_TORCHVISION_AVAILABLE": True,
            "VGG16_Weights": SimpleNamespace(DEFAULT=None),
            "vgg16": lambda weights: SimpleNamespace(features=features),
        },
    }
    before = {module: dict(vars(module)) for module in constructors}
    try:
        for module, replaced in constructors.items():
            vars(module).update(replaced)
        yield lpips, dists
    finally:
        for module, replaced in constructors.items():
            for name in replaced:
                if name in before[module]:
                    setattr(module, name, before[module][name])
                else:
                    delattr(module, name)


def import_torchmetrics() -> None:
    """Imports torchmetrics, which cannot be imported where torch-fidelity is installed and torchvision is not.

    torchmetrics imports one part of torch-fidelity, and with it the whole package, other parts of which import torchvision. An
    empty package in its place, with the same folder, lets the one part be imported alone.
    Raises MissingExtra where torchmetrics is not installed.
    """
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is not None and "torch_fidelity" not in sys.modules:
        try:
            import torch_fidelity  # noqa: F401
        # Where torchvision is there but made for another torch, these are RuntimeError, AttributeError and others.
        except Exception:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
                del sys.modules[name]
            package = ModuleType("torch_fidelity")
            package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
            sys.modules["torch_fidelity"] = package
    with extra("evaluate", "measuring LPIPS, DISTS, FID and KID"):
        import torchmetrics  # noqa: F401
