# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics that need other networks' weights: against their definitions, with random weights of the right shape."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photograph

from diffjscc.evaluate.backbones import alexnet_features, vgg16_features
from diffjscc.evaluate.learned import (
    WEIGHTS,
    fid,
    find_weights,
    import_torchmetrics,
    kid,
    load_dists,
    load_inception,
    load_lpips,
    patches,
)
from diffjscc.evaluate.measures import METRICS, Measures
from diffjscc.images import to_pixels

import_torchmetrics()
from torchmetrics.functional.image import dists as torchmetrics_dists  # noqa: E402
from torchmetrics.functional.image import lpips as torchmetrics_lpips  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of random weights, named as the real ones."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, network in (("AlexNet", alexnet_features()), ("VGG16", vgg16_features())):
        state = {f"features.{key}": value for key, value in network.state_dict().items()}
        # The real files hold a classifier too.
        torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, folder / WEIGHTS[name][0])
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The network without the file that its constructor loads.
    shapes = torch.nn.Module.__new__(FeatureExtractorInceptionV3)
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: loaded.append(self))
        shapes.__init__("inception-v3-compat", ["2048"], "none")
    torch.save(shapes.state_dict(), folder / WEIGHTS["Inception"][0])
    return str(folder)


@pytest.fixture(scope="module")
def pair():
    image = photograph(128, 192)
    noise = 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + noise).clamp(0, 1), image


def stages(network, image, ends):
    """The network's activations after these layers."""
    given = []
    for number, layer in enumerate(network):
        image = layer(image)
        if number in ends:
            given.append(image)
    return given


@pytest.mark.parametrize(
    "net, build, file, ends",
    [
        ("alex", alexnet_features, "AlexNet", (1, 4, 7, 9, 11)),
        ("vgg", vgg16_features, "VGG16", (3, 8, 15, 22, 29)),
    ],
)
def test_lpips_is_the_weighted_distance_of_normalised_activations(net, build, file, ends, weights, pair):
    """Zhang et al., CVPR 2018, eq. 1, with the published linear weights that torchmetrics brings along."""
    network = build()
    state = torch.load(find_weights(file, weights), weights_only=True)
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    linear = torch.load(f"{torchmetrics_lpips.__file__[: -len('lpips.py')]}lpips_models/{net}.pth", "cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    with torch.inference_mode():
        given, wanted = (stages(network, (2 * p[None] - 1 - shift) / scale, ends) for p in pair)
        distance = 0.0
        for number, (a, b) in enumerate(zip(given, wanted)):
            a, b = (p / (p.square().sum(1, keepdim=True).sqrt() + 1e-8) for p in (a, b))
            distance += F.conv2d((a - b) ** 2, linear[f"lin{number}.model.1.weight"]).mean().item()
    measure = load_lpips(net, weights)
    assert measure(*pair) == pytest.approx(distance, rel=1e-4)
    assert measure(pair[1], pair[1]) == 0


def test_dists_is_one_less_the_similarity_of_textures_and_structures(weights, pair):
    """Ding et al., TPAMI 2022, eq. 7, with the published α and β that torchmetrics brings along."""
    network = vgg16_features()
    state = torch.load(find_weights("VGG16", weights), weights_only=True)
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    path = torchmetrics_dists._PATH_WEIGHT_DISTS
    learned = torch.load(path, weights_only=True)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    taps = torch.tensor([0.5, 1.0, 0.5])
    hanning = torch.outer(taps, taps) / 4

    def features(image):
        given, value = [image[None]], (image[None] - mean) / deviation
        for number, layer in enumerate(network[:30]):
            if isinstance(layer, torch.nn.MaxPool2d):
                kernel = hanning.expand(value.shape[1], 1, 3, 3)
                value = (F.conv2d(value**2, kernel, stride=2, padding=1, groups=value.shape[1]) + 1e-12).sqrt()
            else:
                value = layer(value)
            if number in (3, 8, 15, 22, 29):
                given.append(value)
        return given

    similarity = 0.0
    total = learned["alpha"].sum() + learned["beta"].sum()
    with torch.inference_mode():
        given, wanted = (features(p) for p in pair)
        widths = [p.shape[1] for p in given]
        for a, b, alpha, beta in zip(given, wanted, learned["alpha"].split(widths, 1), learned["beta"].split(widths, 1)):
            a, b = a.flatten(2)[0], b.flatten(2)[0]
            texture = (2 * a.mean(1) * b.mean(1) + 1e-6) / (a.mean(1) ** 2 + b.mean(1) ** 2 + 1e-6)
            covariance = (a * b).mean(1) - a.mean(1) * b.mean(1)
            structure = (2 * covariance + 1e-6) / (a.var(1, correction=0) + b.var(1, correction=0) + 1e-6)
            similarity += ((alpha.flatten() * texture + beta.flatten() * structure).sum() / total).item()
    measure = load_dists(weights)
    assert measure(*pair) == pytest.approx(1 - similarity, abs=1e-5)
    assert measure(pair[1], pair[1]) == pytest.approx(0, abs=1e-5)


def test_fid_is_the_frechet_distance_of_gaussians_and_kid_the_mean_of_a_cubic_kernel():
    random = np.random.default_rng(0)
    given, wanted = random.normal(size=(400, 6)) * 1.5 + 0.3, random.normal(size=(500, 6))
    covariances = np.cov(given, rowvar=False), np.cov(wanted, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    expected = ((given.mean(0) - wanted.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert fid(torch.tensor(given), torch.tensor(wanted)) == pytest.approx(expected, rel=1e-6)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    # With one subset of everything, KID is the unbiased estimate itself.
    n = 400
    wanted = wanted[:n]
    same = sum((kernel(p, p).sum() - np.trace(kernel(p, p))) / (n * (n - 1)) for p in (given, wanted))
    expected = same - 2 * kernel(given, wanted).mean()
    assert kid(torch.tensor(given), torch.tensor(wanted)) == pytest.approx(expected, rel=1e-4)
    assert math.isnan(fid(torch.zeros(1, 6), torch.zeros(1, 6))) and math.isnan(kid(torch.zeros(0, 6), torch.zeros(0, 6)))


def test_patches_overlap_by_half():
    image = photograph(512, 640)
    cut = patches(image)
    assert cut.shape == (3 * 4, 3, 256, 256)
    assert torch.equal(cut[1], image[:, :256, 128:384])
    assert len(patches(image[:, :200])) == 0


def test_inception_is_torch_fidelitys_own(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = find_weights("Inception", weights)
    reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).eval()
    cut = patches(photograph(256, 256))
    with torch.inference_mode():
        (wanted,) = reference((cut * 255).byte())
        given = load_inception(weights)(cut)
    assert given.shape == (1, 2048) and torch.allclose(given, wanted, atol=1e-4)


def test_everything_is_measured_where_the_weights_are(weights):
    measures = Measures(list(METRICS), weights)
    assert measures.missing == []
    original = to_pixels(photograph(256, 256))
    values = measures.measure(original // 2, original)
    assert all(math.isfinite(value) for name, value in values.items() if not name.startswith("niqe"))
    assert values["psnr_db"] < 15 and values["lpips_alex"] > 0 and values["dists"] > 0
    assert len(measures.features(original)) > 4 * 2048


def test_a_metric_without_weights_is_one_line_and_nan(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "cache"))
    measures = Measures(["psnr", "lpips-alex", "dists", "fid", "kid"], str(tmp_path))
    assert [line.partition(": ")[0] for line in measures.missing] == ["no LPIPS (AlexNet)", "no DISTS", "no FID and no KID"]
    assert "alexnet-owt-7be5be79.pth" in measures.missing[0] and str(tmp_path) in measures.missing[0]
    pixels = to_pixels(photograph(64, 64))
    values = measures.measure(pixels, pixels)
    assert values["psnr_db"] == math.inf and math.isnan(values["lpips_alex"]) and math.isnan(values["dists"])
    assert measures.features(pixels) is None


def test_weights_of_another_network_or_damaged_ones_are_one_line(tmp_path):
    (tmp_path / WEIGHTS["AlexNet"][0]).write_bytes(b"not weights")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / WEIGHTS["VGG16"][0])
    torch.save({"a": torch.zeros(3)}, tmp_path / WEIGHTS["Inception"][0])
    for load, network in (
        (lambda: load_lpips("alex", str(tmp_path)), "AlexNet"),
        (lambda: load_dists(str(tmp_path)), "VGG16"),
        (lambda: load_inception(str(tmp_path)), "Inception"),
    ):
        with pytest.raises(ValueError, match=f"not the weights of {network}") as error:
            load()
        assert "\n" not in str(error.value)
