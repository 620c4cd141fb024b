# SPDX-License-Identifier: GPL-3.0-or-later
"""What sweeps rely on: every system behind the one interface."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import photograph
from refine.tiny import diffusion_refiner

from diffjscc.channel import draw_gain, transmit
from diffjscc.codec.codec import Codec
from diffjscc.evaluate.systems import SYSTEMS, Sent, build_system
from diffjscc.evaluate.systems.channel_codes import find_code
from diffjscc.hub import load_codec, save_codec
from diffjscc.metrics import psnr

#: Of 256×256 at R = 1/16: 341 bytes at the paper's rate of 2/3 of a bit.
BUDGET = 4096

#: The systems that need no other weights than those that come with the package.
SPECS = {
    "deepjscc": "deepjscc",
    "diffjscc": "diffjscc",
    "softcast": "softcast",
    "separate": "separate",
    "separate, 5G": {"system": "separate", "code": "nr-2/3", "image_codec": "av1"},
    "separate, best": {"system": "separate", "code": "best"},
    "capacity": "capacity",
    "capacity, JPEG 2000": {"system": "capacity", "image_codec": "jpeg2000"},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the workers of a sweep."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def image():
    return smooth(256, 256)


def smooth(height, width):
    """A photograph without its finest detail."""
    coarse = torch.nn.functional.avg_pool2d(photograph(2 * height, 2 * width)[None], 32)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A refiner of Stable Diffusion's kind."""
    folder = tmp_path_factory.mktemp("refiner")
    diffusion_refiner(text=False).save_pretrained(folder)
    return str(folder)


def same(a: Sent, b: Sent):
    images = (a.image is None and b.image is None) or torch.equal(a.image, b.image)
    return images and a.channel_uses == b.channel_uses and a.details == b.details


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("channel", ["awgn", "rayleigh"])
def test_every_system_sends_an_image_within_its_budget(name, channel, image):
    sent = build_system(SPECS[name]).send(image, BUDGET, 13.0, channel, 4)
    assert sent.image.shape == image.shape and sent.image.dtype == torch.float32
    assert 0 <= sent.image.min() <= sent.image.max() <= 1
    assert 0.5 * BUDGET < sent.channel_uses <= BUDGET
    assert json.loads(json.dumps(sent.details)) == sent.details


@pytest.mark.parametrize("name", SPECS)
def test_the_result_depends_on_the_arguments_alone(name, image):
    """Not on what was sent before, nor on which of two equal systems sends."""
    other = photograph(256, 320)[..., 64:]
    system = build_system(SPECS[name])
    first = system.send(image, BUDGET, 1.0, "rayleigh", 7)
    for seed in range(2):
        system.send(other, BUDGET, 5.0, "awgn", seed)
    assert same(system.send(image, BUDGET, 1.0, "rayleigh", 7), first)
    assert same(build_system(SPECS[name]).send(image, BUDGET, 1.0, "rayleigh", 7), first)


def test_another_process_computes_the_same(image, tmp_path):
    np.save(tmp_path / "image.npy", image.numpy())
    code = """
import hashlib, sys, numpy, torch
from diffjscc.evaluate.systems import build_system
torch.set_num_threads(1)
image = torch.from_numpy(numpy.load(sys.argv[1]))
for spec in ("deepjscc", "separate", "softcast"):
    sent = build_system(spec).send(image, 4096, 1.0, "awgn", 3)
    print(hashlib.sha256(sent.image.numpy().tobytes()).hexdigest())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for spec, digest in zip(("deepjscc", "separate", "softcast"), done.stdout.split()):
        sent = build_system(spec).send(image, BUDGET, 1.0, "awgn", 3)
        assert hashlib.sha256(sent.image.numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["deepjscc", "softcast", "separate", "diffjscc"])
def test_more_noise_is_a_worse_image(name, image):
    system = build_system(SPECS[name])
    quality = [psnr(system.send(image, BUDGET, snr, "awgn", 0).image, image) for snr in (-8, 12)]
    assert quality[1] > quality[0] + 2


def test_deepjscc_is_the_codec_and_the_channel_and_nothing_else(image):
    codec = load_codec("lite", "cpu", torch.float32)
    gain = draw_gain("rayleigh", 9)
    symbols = codec.encode(image, 4.0, "1/16", fading=gain)
    expected = codec.decode(transmit(symbols, 4.0, gain, 9), symbols.header)
    assert torch.equal(build_system("deepjscc").send(image, BUDGET, 4.0, "rayleigh", 9).image, expected)


def test_deepjscc_has_the_codecs_rates_and_refuses_others(image):
    system = build_system("deepjscc")
    assert [str(rate) for rate in system.rates] == ["1/128", "1/64", "1/32", "1/16"]
    with pytest.raises(ValueError, match="^rate 3/256 is not one that codec 'lite' has"):
        system.send(image, 768, 1.0, "awgn", 0)


def test_deepjscc_adv_takes_a_folder_and_says_where_one_comes_from(tmp_path, image):
    with pytest.raises(ValueError, match="^deepjscc-adv needs a codec.*diffjscc train codec-adversarial"):
        build_system("deepjscc-adv")
    codec: Codec = load_codec("lite", "cpu", torch.float32)
    save_codec(codec, tmp_path / "adversarial")
    sent = build_system({"system": "deepjscc-adv", "codec": str(tmp_path / "adversarial")}).send(image, BUDGET, 1.0, "awgn", 0)
    assert sent.details["codec"] == "adversarial"


def test_diffjscc_refines_what_deepjscc_receives(image):
    from diffjscc.hub import load_refiner

    initial = build_system("deepjscc").send(image, BUDGET, 1.0, "awgn", 5).image
    refined = build_system("diffjscc").send(image, BUDGET, 1.0, "awgn", 5).image
    pipeline = load_refiner("mini", "cpu", torch.float32)
    (expected,) = pipeline(initial, 1.0, generator=torch.Generator().manual_seed(10), output_type="pt").images
    assert torch.equal(refined, expected)


def test_the_ablation_leaves_out_what_it_says(image, stable_diffusion):
    spec = {"system": "diffjscc", "refiner": stable_diffusion, "steps": 2}
    crop = image[:, :64, :64]
    images = [
        build_system(spec | more).send(crop, 128, 1.0, "awgn", 5).image
        for more in ({}, {"use_snr": False}, {"use_spatial": False}, {"steps": 3})
    ]
    for index, one in enumerate(images):
        for other in images[index + 1 :]:
            assert (one - other).abs().max() > 1e-4


def test_ddnm_starts_from_stable_diffusion_without_the_control_module(image, stable_diffusion):
    from diffjscc.hub import load_refiner
    from diffjscc.refine.range_null import RangeNull

    crop = image[:, :64, :64]
    sent = build_system({"system": "ddnm", "refiner": stable_diffusion, "steps": 3}).send(crop, 128, 1.0, "awgn", 5)
    initial = build_system("deepjscc").send(crop, 128, 1.0, "awgn", 5).image
    pipeline = load_refiner(stable_diffusion, "cpu", torch.float32)
    (expected,) = pipeline(
        initial,
        1.0,
        num_inference_steps=3,
        controlnet_conditioning_scale=0.0,
        range_null=RangeNull(),
        colour_fix="none",
        generator=torch.Generator().manual_seed(10),
        output_type="pt",
    ).images
    assert torch.equal(sent.image, expected)
    with pytest.raises(ValueError, match="^range_null needs a refiner that predicts noise"):
        build_system({"system": "ddnm", "refiner": "mini"})
    with pytest.raises(ValueError, match="^ddnm needs a refiner on Stable Diffusion.*diffjscc models pull"):
        build_system("ddnm")


@pytest.mark.parametrize(("channel", "seed"), [("awgn", 0), ("rayleigh", 3)])
def test_capacity_spends_what_the_channel_carries_and_no_bit_more(channel, seed, image):
    gain = abs(draw_gain(channel, seed)) ** 2
    bits = int(BUDGET * np.log2(1 + gain * 10**0.7))
    sent = build_system("capacity").send(image, BUDGET, 7.0, channel, seed)
    assert sent.details["bits"] == bits and sent.details["bytes"] <= bits // 8
    assert sent.channel_uses == -(-8 * sent.details["bytes"] // np.log2(1 + gain * 10**0.7))


def test_what_does_not_fit_is_not_sent(image):
    for spec in ("capacity", "separate", {"system": "separate", "code": "best"}):
        sent = build_system(spec).send(image, 64, 1.0, "awgn", 0)
        assert sent.image is None and sent.channel_uses == 0 and sent.details["bits"] >= 0


def test_separate_uses_the_papers_code_and_counts_what_fails(image):
    system = build_system("separate")
    good, bad = (system.send(image, 3 * 1944, snr_db, "awgn", 1) for snr_db in (2.0, -3.0))
    for sent in (good, bad):
        assert sent.channel_uses == 3 * 1944
        assert sent.details["code"] == "wifi-2/3" and sent.details["constellation"] == "bpsk"
        assert sent.details["bits"] == 3 * 1296 and sent.details["blocks"] == 3
    assert (good.details["failed"], good.details["shown"], good.details["block_errors"]) == (0, "whole", 0)
    assert (bad.details["failed"], bad.details["shown"], bad.details["block_errors"]) == (1, "nothing", 3)
    assert psnr(bad.image, image) < 15 < psnr(good.image, image)


def test_the_cliff_lies_where_the_code_fails(image):
    """BPSK with rate 2/3 works from about γ = 0.5 dB on."""
    system = build_system("separate")
    assert [system.send(image, 3 * 1944, snr, "awgn", 2).details["failed"] for snr in (-1.5, 1.5)] == [1, 0]


def test_the_best_code_sends_more_than_the_papers_choice_at_high_snr(image):
    best = build_system({"system": "separate", "code": "best-wifi"}).send(image, BUDGET, 15.0, "awgn", 0)
    paper = build_system("separate").send(image, BUDGET, 15.0, "awgn", 0)
    assert best.details["failed"] == 0 and best.details["bytes"] > 3 * paper.details["bytes"]
    assert psnr(best.image, image) > psnr(paper.image, image) + 2


def test_softcast_is_close_to_the_optimum_of_its_kind(image):
    """Without noise the error is the variance of the chunks that are not sent; more chunks help."""
    values = [psnr(build_system("softcast").send(image, b, 60.0, "awgn", 0).image, image) for b in (512, 2048, 8192, 98304)]
    assert values == sorted(values) and values[-1] > 50


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (130, 65)])
@pytest.mark.parametrize("name", ["deepjscc", "softcast", "separate, best", "capacity"])
def test_images_of_any_size_are_sent(name, height, width):
    image = photograph(height, width)
    budget = -(-height // 16) * -(-width // 16) * 16
    sent = build_system(SPECS[name]).send(image, budget, 10.0, "awgn", 0)
    assert sent.image is None or sent.image.shape == image.shape
    assert sent.channel_uses <= budget


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("deepjsc", r"no system is called 'deepjsc' \(did you mean 'deepjscc'\?\); there are deepjscc"),
        (7, "7 is no system: write a name"),
        ({"codec": "lite"}, "{'codec': 'lite'} is no system"),
        ({"system": "deepjscc", "codc": "lite"}, r"no key is called 'codc' \(did you mean 'codec'\?\)"),
        ({"system": "deepjscc", "codec": "lit"}, "model 'lit' is neither"),
        ({"system": "deepjscc", "dtype": "int8"}, "dtype = 'int8': must be float32 or bfloat16"),
        ({"system": "diffjscc", "steps": 7}, "num_inference_steps = 7: this refiner is a flow"),
        ({"system": "diffjscc", "refiner": "min"}, "model 'min' is neither"),
        ({"system": "separate", "constellation": "8psk"}, r"no constellation is called '8psk' \(did you mean 'qpsk'"),
        ({"system": "separate", "code": "wifi-2/4"}, "no code is called 'wifi-2/4'"),
        ({"system": "separate", "radio": "stok"}, "no radio is called 'stok'"),
        ({"system": "capacity", "image_codec": "hvec"}, "no image codec is called 'hvec'"),
        ({"system": "softcast", "chunks": 0}, "chunks = 0: must be from 1 to 256"),
    ],
)
def test_what_makes_no_system_is_refused_in_one_line(spec, message):
    with pytest.raises(ValueError, match=f"^({message})") as caught:
        build_system(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["deepjscc", "separate", "capacity", "softcast"])
def test_a_channel_that_does_not_exist_is_refused(name, image):
    with pytest.raises(ValueError, match=r"^no channel is called 'agwn' \(did you mean 'awgn'\?\)"):
        build_system(SPECS[name]).send(image, BUDGET, 1.0, "agwn", 0)


@pytest.mark.parametrize("name", ["deepjscc", "separate", "capacity", "softcast", "diffjscc"])
def test_what_no_system_can_use_is_refused_in_one_line(name, image):
    system = build_system(SPECS[name])
    for changed, message in (
        ({"budget": 0}, "budget = 0: must be at least 1"),
        ({"snr_db": float("nan")}, "snr_db = nan is not an SNR"),
        ({"snr_db": float("inf")}, "snr_db = inf is not an SNR"),
        ({"image": image * float("nan")}, "image holds NaN"),
        ({"image": image[:, :20]}, "image is 256×20 pixels"),
        ({"image": image[0]}, "image is torch.float32"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            system.send(**{"image": image, "budget": BUDGET, "snr_db": 1.0, "channel": "awgn", "seed": 0} | changed)


@pytest.mark.parametrize(("package", "spec"), [("sionna", "separate"), ("av", "capacity")])
def test_a_package_that_is_not_installed_is_named_with_the_remedy(package, spec):
    code = f"""
import sys
from importlib import util
sys.modules[{package!r}] = None
found = util.find_spec
util.find_spec = lambda name, *more: None if name == {package!r} else found(name, *more)
from diffjscc.evaluate.systems import build_system
try:
    build_system({spec!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{package}, which is not installed: pip install 'diffjscc[evaluate]'" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1


def test_systems_are_only_imported_when_they_are_built():
    code = "import sys, diffjscc.evaluate.systems; sys.exit(bool({'av', 'sionna', 'diffusers', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert set(SYSTEMS) == {"deepjscc", "deepjscc-adv", "diffjscc", "ddnm", "softcast", "separate", "capacity"}


def test_a_block_in_the_padding_that_fails_costs_nothing(image, monkeypatch):
    """Only the bytes of the image count: what fills the budget behind them may be lost."""
    system, code = build_system("separate"), find_code("wifi-2/3")
    decode = type(code).decode

    def lose_the_last(self, llrs, blocks, bits_per_symbol):
        decided, accepted = decode(self, llrs, blocks, bits_per_symbol)
        accepted[-1] = False
        return decided, accepted

    # More than HEVC can use.
    whole = system.send(image, 200 * 1944, 10.0, "awgn", 0)
    assert whole.details["bytes"] * 8 < 199 * 1296
    monkeypatch.setattr(type(code), "decode", lose_the_last)
    again = system.send(image, 200 * 1944, 10.0, "awgn", 0)
    assert (again.details["block_errors"], again.details["failed"]) == (1, 0)
    assert torch.equal(again.image, whole.image)
