# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recipe runs from end to end at a tiny size, and what it writes works in the pipeline and on the air."""

import pytest
import torch
import yaml
from blocks.flowgraphs import MessageSink
from conftest import SMALL, photograph
from gnuradio import blocks, diffjscc, gr
from refine.tiny import Authors, refine

from diffjscc.channel import transmit
from diffjscc.cli import main
from diffjscc.hub import load_codec, load_refiner
from diffjscc.images import read_image, write_image
from diffjscc.packaged import packaged_names
from diffjscc.refine import convert

TINY = ["steps=2", "batch=2", "crop=32"]


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for path in images.iterdir():
        write_image(folder / path.name, read_image(path)[32:112, 64:144])
    return folder


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A function that runs a recipe, once, at a tiny size and with changes; returns the folder of its model."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name, *changes):
        if not (folder / name).exists():
            arguments = ["train", name, *TINY, "--data", str(data), "--out", str(folder / name), *map(str, changes)]
            assert main(arguments) == 0
        return folder / name / "model"

    return run


def small(architecture, **values):
    options = {key: value for key, value in SMALL[architecture].items() if key not in ("architecture", "rate")}
    return [f"architecture.{key}={value}" for key, value in {**options, **values}.items()]


CODECS = {
    "codec-lite": small("lite", widths=[8, 16, 32]),  # attention has heads of 32 channels
    "codec-swin": small("swin"),
    **{
        f"codec-{name}": small("resnet")
        for name in ("paper-r128", "paper-r64", "paper-r32", "paper-r16", "rayleigh", "adversarial")
    },
}


def test_there_is_a_test_for_every_recipe():
    assert sorted([*CODECS, "vae-mini", "refiner-mini", "control-sd21"]) == packaged_names("recipes")


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_crosses_the_air_in_a_flowgraph(name, runs, data, capsys):
    model = runs(name, *CODECS[name])
    assert f"model written to {model}" in capsys.readouterr().out
    codec = load_codec(model)
    symbols = codec.encode(photograph(64, 64), 7.0)
    assert codec.decode(transmit(symbols, 7.0), symbols.header).shape == (3, 64, 64)

    flowgraph = gr.top_block()
    source = diffjscc.jscc_source(str(data), codec=str(model), rate=str(codec.rates[-1]), snr_db=7.0)
    sink, received = diffjscc.jscc_sink(codec=str(model)), MessageSink()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    flowgraph.run()
    assert sink.counters()["decoded"] == 3 and [pixels.shape for pixels, _ in received.images()] == [(80, 80, 3)] * 3


def test_a_small_refiner_repaints_what_its_flowgraph_receives(runs, data):
    vae, codec = runs("vae-mini", "width=8", "crop=64"), runs("codec-lite", *CODECS["codec-lite"])
    model = runs("refiner-mini", f"vae={vae}", f"codec={codec}", "widths=[32, 32]", "crop=64", "rates=[1/128]")
    assert refine(load_refiner(model), photograph(64, 64), 1.0).shape == (3, 64, 64)

    flowgraph = gr.top_block()
    source = diffjscc.jscc_source(str(data), codec=str(codec), rate="1/128", snr_db=7.0)
    sink = diffjscc.jscc_sink(codec=str(codec), refinement=diffjscc.LocalRefinement(str(model)))
    refined = MessageSink()
    flowgraph.connect(source, blocks.copy(gr.sizeof_gr_complex), sink)
    flowgraph.msg_connect((sink, "refined"), (refined, "in"))
    flowgraph.run()
    assert [metadata["stage"] for _, metadata in refined.images()] == ["refined"] * 3


def test_a_control_module_steers_stable_diffusion(runs, tmp_path):
    authors = Authors()
    authors.add_text_encoder()
    kept = {k: v for k, v in authors.tensors.items() if k.startswith((convert.UNET, convert.VAE, convert.TEXT))}
    torch.save({"state_dict": kept}, tmp_path / "sd.ckpt")
    (tmp_path / "sd.yaml").write_text(yaml.safe_dump({"model": {"params": authors.config}}))
    codec = runs("codec-lite", *CODECS["codec-lite"])
    changes = [f"stable_diffusion={tmp_path / 'sd.ckpt'}", f"config={tmp_path / 'sd.yaml'}", f"codec={codec}", "accumulate=2"]
    refiner = load_refiner(runs("control-sd21", *changes), dtype=torch.float32)
    assert refine(refiner, photograph(64, 64), 3.0, num_inference_steps=2).shape == (3, 64, 64)
