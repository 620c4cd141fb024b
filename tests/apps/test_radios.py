# SPDX-License-Identifier: GPL-3.0-or-later
"""Radios from the command line, and what stands in for them where there is none."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pmt
import pytest
import sigmf
from blocks.flowgraphs import folder_without_files
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc import radios
from gnuradio.diffjscc.radio_apps import command
from gnuradio.diffjscc.radios import SILENCE, Radio, radio_sink, radio_source
from gnuradio.diffjscc.recordings import read_recording
from gnuradio.diffjscc.sigmf_writer import recorder

from diffjscc.air.peaks import cut_for, remaining_peak_db
from diffjscc.air.preset import find_preset
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr

ROOT = Path(__file__).parents[2]
APPS = {name: ROOT / "apps" / f"diffjscc-{name}" for name in ("tx", "rx")} | {"air": ROOT / "examples/virtual_air.py"}

#: Symbols of one of conftest's images at rate 1/32.
SYMBOLS = 160 * 224 // 32


def start(app, *arguments):
    line = [sys.executable, APPS[app], *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Standard output of an app that must end well."""
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, out + err
    return out


def load(app):
    loader = importlib.machinery.SourceFileLoader(f"diffjscc_{app}", str(APPS[app]))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def call(app, *arguments):
    """Exit status of an app in this process."""
    module = load(app)
    run = module.send if app == "tx" else module.receive
    return command(f"diffjscc-{app}", run, module.make_parser().parse_args([*map(str, arguments)]))


def quality(folder, originals):
    """PSNR of the received images in their order, dB."""
    pairs = zip(find_images(folder), find_images(originals), strict=True)
    return [psnr(to_tensor(read_image(received)), to_tensor(read_image(sent))) for received, sent in pairs]


def samples_of(source):
    flowgraph, probe = gr.top_block(), blocks.vector_sink_c()
    flowgraph.connect(source, probe)
    flowgraph.run()
    return np.array(probe.data())


def test_images_cross_a_file_and_a_lost_burst_is_told_and_costs_little(images, tmp_path):
    path, fragments = tmp_path / "samples.cf32", 4
    out = finish(
        start("tx", images, "--radio", "file", "--file", path, "--burst-symbols", SYMBOLS // fragments, "--preset", "ofdm64")
    )
    assert out == "bursts: sent 12, dropped 0\nimages: sent 3, skipped 0, waiting 0\n"
    samples, burst = np.fromfile(path, np.complex64), find_preset("ofdm64").burst_len(SYMBOLS // fragments)
    assert len(samples) == 3 * (fragments * burst + 3 * 64 + SILENCE)
    samples[:burst] = 0
    samples.tofile(path)
    out = finish(start("rx", "--radio", "file", "--file", path, "--out", tmp_path / "out", "--preset", "ofdm64")).splitlines()
    assert out[0].startswith("image 0: 224×160, SNR ") and out[0].endswith("CFO +0 Hz, 1 of 4 fragments lost, truncated")
    assert out[2].startswith("image 2: 224×160, SNR ") and out[2].endswith("CFO +0 Hz")
    assert out[3:] == [
        "bursts: detected 11, received 11, rejected 0, interrupted 0",
        "images: received 3, decoded 3, truncated 1, dropped 0, published 3, undelivered 0, written 3, unwritten 0,"
        " stray 0, late 0",
    ]
    holed, *whole = quality(tmp_path / "out", images)
    assert holed > 20 and min(whole) > 27


def test_an_image_that_cannot_be_written_is_received_and_refined_once(images, tmp_path, capsys):
    """`--images` counts images, not what became of them."""
    samples, folder = tmp_path / "samples.cf32", folder_without_files(tmp_path)
    assert call("tx", images, "--radio", "file", "--file", samples) == 0
    capsys.readouterr()
    options = ("--radio", "file", "--file", samples, "--out", folder, "--refine", "local", "--images")
    assert call("rx", *options, 3) == 0
    out = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("refined") for line in out) == 3
    assert out[-1] == (
        "images: received 3, decoded 3, truncated 0, dropped 0, published 6, undelivered 0, written 0, unwritten 6 (failed 6),"
        " stray 0, late 0, refined 3, unrefined 0"
    )
    assert call("rx", *options, 4) == 1


def test_the_receiver_s_options_make_its_refinement():
    receiver = load("rx")

    def refinement(*options):
        return receiver.refinement_of(receiver.make_parser().parse_args(["--radio", "zmq", *options]))

    assert refinement() is None
    assert isinstance(refinement("--refine", "local"), diffjscc.LocalRefinement)
    remote = refinement("--refine", "remote", "--service", "tcp://127.0.0.1:9", "--refiner", "other", "--refine-deadline", "7")
    assert isinstance(remote, diffjscc.RemoteRefinement)
    assert (remote._client.address, remote._refiner_name, remote._deadline) == ("tcp://127.0.0.1:9", "other", 7.0)


def test_a_recording_replays_as_it_was_received(images, tmp_path, capsys):
    sent, recorded = tmp_path / "sent", tmp_path / "recorded"
    assert call("tx", images, "--radio", "sigmf", "--file", sent, "--frequency", "2.45G", "--sample-rate", "narrow") == 0
    capsys.readouterr()
    assert call("rx", "--radio", "sigmf", "--file", sent, "--out", tmp_path / "1", "--record", recorded) == 0
    first = capsys.readouterr().out
    assert call("rx", "--radio", "sigmf", "--file", f"{recorded}.sigmf-data", "--out", tmp_path / "2") == 0
    assert first == capsys.readouterr().out
    assert min(quality(tmp_path / "1", images)) > 27
    assert [p.read_bytes() for p in find_images(tmp_path / "1")] == [p.read_bytes() for p in find_images(tmp_path / "2")]
    recording = sigmf.fromfile(f"{recorded}.sigmf-meta")
    recording.validate()
    assert recording.get_global_field("core:sample_rate") == 250e3
    assert recording.get_captures()[0]["core:frequency"] == 2.45e9
    assert np.array_equal(recording.read_samples()[:-SILENCE], sigmf.fromfile(f"{sent}.sigmf-meta").read_samples())


def test_images_cross_the_virtual_air_between_two_radios(images, tmp_path):
    """Three processes at 10 dB, with a carrier offset, clocks apart and a delay; the transmitter waits for its listener."""
    here, there = (f"ipc://{tmp_path}/{end}" for end in ("here", "there"))
    transmitter = start("tx", images, "--radio", "zmq", "--address", here)
    impairments = ("--snr", "10", "--offset=-30k", "--ppm", "20", "--delay", "1234")
    air = start("air", "--from", here, "--to", there, *impairments)
    out = tmp_path / "out"
    receiver = start("rx", "--radio", "zmq", "--address", there, "--out", out, "--images", "3", "--seconds", "60")
    try:
        lines = finish(receiver).splitlines()
        finish(transmitter)
    finally:
        # Not SIGINT, which is ignored by what a shell without job control runs in the background.
        air.terminate()
        finish(air)
    for index, line in enumerate(lines[:3]):
        name, _, snr, offset = line.split(", ")[0].split(":")[0], *line.split(", ")
        assert name == f"image {index}"
        assert float(snr.split()[1]) == pytest.approx(10, abs=0.7)
        assert int(offset.split()[1]) == pytest.approx(-30e3, abs=100)
    assert min(quality(out, images)) > 25


def test_a_burst_is_tagged_on_its_first_and_last_sample_at_any_amplitude(images):
    source = diffjscc.jscc_tx(str(images), rate="1/32", burst_symbols=SYMBOLS // 2, guard=500, amplitude=0.25)
    flowgraph, probe = gr.top_block(), blocks.vector_sink_c()
    flowgraph.connect(source, probe)
    flowgraph.run()
    samples, tags = np.array(probe.data()), {}
    for tag in probe.tags():
        tags.setdefault(pmt.symbol_to_string(tag.key), []).append((tag.offset, pmt.to_python(tag.value)))
    burst = find_preset("ofdm256").burst_len(SYMBOLS // 2)
    lengths = [burst + 64, burst + 500] * 3
    starts = np.cumsum([0, *lengths])
    assert len(samples) == starts[-1]
    assert tags == {
        "packet_len": list(zip(starts[:-1], lengths)),
        "tx_sob": [(offset, True) for offset in starts[:-1]],
        "tx_eob": [(offset - 1, True) for offset in starts[1:]],
    }
    for offset in starts[:-1]:
        assert np.abs(samples[offset : offset + 256]) == pytest.approx(0.25, abs=1e-4)
        assert np.sqrt(np.mean(np.abs(samples[offset : offset + burst]) ** 2)) == pytest.approx(0.25, rel=0.02)


def test_samples_for_a_device_stay_below_its_full_scale():
    for clip_db in (6, 9, 12):
        peak = Radio("uhd", frequency=1e9).amplitude(clip_db) * 10 ** (clip_db / 20)
        assert 0.5 < peak < 0.8
    assert Radio("zmq").amplitude(9) == 1


def test_lowered_peaks_stay_below_a_device_s_full_scale_and_use_it(images):
    """What diffjscc-tx does for a device: the amplitude follows the peaks."""
    for snr_db, least in ((1.0, 4.0), (13.0, 2.5)):
        peak_db = remaining_peak_db(cut_for(snr_db))
        amplitude = Radio("uhd", frequency=1e9).amplitude(peak_db)
        assert 20 * np.log10(amplitude / Radio("uhd", frequency=1e9).amplitude(9)) > least
        transmitter, sink = (
            diffjscc.jscc_tx(str(images), snr_db=snr_db, clip_db="auto", amplitude=amplitude),
            blocks.vector_sink_c(),
        )
        flowgraph = gr.top_block()
        flowgraph.connect(transmitter, sink)
        flowgraph.run()
        assert 0.65 < np.abs(sink.data()).max() < 0.75


@pytest.mark.parametrize("datatype, scale", [("cf32_le", 1), ("ci16_le", 32768), ("ci8", 128)])
def test_recordings_of_other_types_are_read_with_their_rate_and_frequency(tmp_path, datatype, scale):
    expected = np.array([0.5 - 0.25j, -1, 0.75j, 0.125 + 0.5j], np.complex64)
    numbers = expected.view(np.float32) * scale
    numbers.astype({"cf32_le": "<f4", "ci16_le": "<i2", "ci8": "i1"}[datatype]).tofile(tmp_path / "there.sigmf-data")
    properties = {"core:datatype": datatype, "core:sample_rate": 2e6, "core:version": "1.0.0"}
    metadata = {"global": properties, "captures": [{"core:sample_start": 0, "core:frequency": 4e8}], "annotations": []}
    (tmp_path / "there.sigmf-meta").write_text(json.dumps(metadata))
    radio = radios.replayed(Radio("sigmf", file=str(tmp_path / "there")))
    assert (radio.sample_rate, radio.frequency) == (2e6, 4e8)
    assert np.array_equal(samples_of(radio_source(radio)), np.append(expected, np.zeros(SILENCE)))


def test_a_recording_is_what_sigmf_asks_for(tmp_path):
    flowgraph = gr.top_block()
    recording = recorder(tmp_path / "at.2.4G", 1e6)
    flowgraph.connect(blocks.vector_source_c([1, 1j]), recording)
    flowgraph.run()
    recording = sigmf.fromfile(str(tmp_path / "at.2.4G.sigmf-meta"))
    recording.validate()
    assert recording.read_samples().tolist() == [1, 1j]
    assert recording.get_captures()[0]["core:datetime"].endswith("Z")
    assert read_recording(tmp_path / "at.2.4G.sigmf-data").frequency is None


@pytest.mark.parametrize("kind", radios.DEVICES)
@pytest.mark.parametrize("app", ["tx", "rx"])
def test_a_device_that_is_not_there_is_one_line(app, kind, images, capsys):
    arguments = ["--radio", kind, "--frequency", "2.45G", "--args", {"pluto": "ip:127.0.0.1"}.get(kind, "type=absent")]
    line = refusal(app, [images, *arguments] if app == "tx" else arguments, capsys)
    assert f"radio {kind}, device '{arguments[-1]}': " in line and "lists what is connected" in line


@pytest.mark.parametrize("kind, module", [("uhd", "uhd"), ("soapy", "soapy"), ("pluto", "iio"), ("zmq", "zeromq")])
def test_a_driver_that_is_not_installed_is_one_line(kind, module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, f"gnuradio.{module}", None)
    line = refusal("rx", ["--radio", kind, "--frequency", "2.45G"], capsys)
    assert f"comes without gr-{module}" in line


def refusal(app, arguments, capsys):
    """The one line on standard error of an app that refuses its arguments."""
    assert call(app, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"diffjscc-{app}: ")
    return lines[0]


def test_wrong_values_are_one_line(images, tmp_path, capsys):
    (tmp_path / "empty").touch()
    (tmp_path / "text.sigmf-meta").write_text("no JSON")
    (tmp_path / "list.sigmf-meta").write_text("[]")
    properties = {"core:datatype": "rf64_be", "core:version": "1.0.0"}
    (tmp_path / "odd.sigmf-meta").write_text(json.dumps({"global": properties, "captures": []}))
    file = ["--radio", "file", "--file", tmp_path / "x"]
    for app, arguments, message in [
        ("tx", [tmp_path / "absent", *file], "no such file"),
        ("tx", [images, *file, "--rate", "1/3"], "rate 1/3"),
        ("tx", [images, *file, "--burst-symbols", "9000"], "burst_symbols = 9000"),
        ("tx", [images, "--radio", "file", "--file", tmp_path / "no/where"], "no such file"),
        ("tx", [images, *file, "--amplitude", "nan"], "amplitude nan"),
        ("tx", [images, *file, "--gain", "nan"], "gain nan"),
        ("tx", [images, *file, "--snr", "nan"], "not an SNR"),
        ("tx", [images, *file, "--effort", "-1"], "effort = -1: must be a whole number of steps"),
        ("tx", [images, "--radio", "file"], "needs the name of a file"),
        ("tx", [images, "--radio", "uhd"], "needs a frequency"),
        ("tx", [images, "--radio", "zmq", "--address", "here"], "Invalid argument; give a free one"),
        ("rx", ["--radio", "file", "--file", tmp_path / "absent"], "no such file"),
        ("rx", ["--radio", "file", "--file", tmp_path / "empty"], "holds no samples"),
        ("rx", ["--radio", "sigmf", "--file", tmp_path / "absent"], "absent.sigmf-meta: no such file"),
        ("rx", ["--radio", "sigmf", "--file", tmp_path / "text"], "not the metadata of a SigMF recording"),
        ("rx", ["--radio", "sigmf", "--file", tmp_path / "list"], "not the metadata of a SigMF recording"),
        ("rx", ["--radio", "sigmf", "--file", tmp_path / "odd"], "1 channel of rf64_be"),
        ("rx", ["--radio", "zmq", "--sample-rate=-1k"], "sample rate -1000: must be above 0"),
        ("rx", ["--radio", "zmq", "--codec", "absent"], "absent"),
        ("rx", ["--radio", "zmq", "--record", tmp_path / "no/where"], "no such file"),
        ("rx", ["--radio", "zmq", "--refine", "local", "--refiner", "absent"], "absent"),
        ("rx", ["--radio", "zmq", "--refine", "remote", "--service", "here"], "expected an address"),
        ("rx", ["--radio", "zmq", "--refine", "remote", "--refine-deadline", "0"], "deadline = 0.0"),
    ]:
        assert message in refusal(app, arguments, capsys), arguments
    assert not (tmp_path / "x").exists()


def test_the_apps_explain_themselves():
    for app in APPS:
        assert finish(start(app, "--help")).startswith("usage: ")


@pytest.mark.parametrize("connect, name", [(radio_source, "usrp_source"), (radio_sink, "usrp_sink")])
def test_a_usrp_is_tuned_as_asked_and_an_inexact_rate_is_refused(connect, name, monkeypatch):
    from gnuradio import uhd

    block, made = Mock(spec=getattr(uhd, name)), []
    block.get_samp_rate.return_value = 1e6
    monkeypatch.setattr(uhd, name, lambda *arguments: made.append(arguments) or block)
    assert connect(Radio("uhd", args="type=b200", frequency=2.45e9, gain=30, antenna="RX2")) is block
    assert made[0][0] == "type=b200" and made[0][2:] == (("packet_len",) if name == "usrp_sink" else ())
    block.set_center_freq.assert_called_once_with(2.45e9)
    block.set_gain.assert_called_once_with(30)
    block.set_antenna.assert_called_once_with("RX2")
    block.set_bandwidth.assert_called_once_with(1e6)
    block.get_samp_rate.return_value = 1.0001e6
    with pytest.raises(ValueError, match="1000100.0 samples/s instead of 1e"):
        connect(Radio("uhd", frequency=2.45e9))


@pytest.mark.parametrize("connect, name", [(radio_source, "source"), (radio_sink, "sink")])
def test_a_soapy_device_takes_the_middle_of_its_gains(connect, name, monkeypatch):
    from gnuradio import soapy

    block = Mock(spec=getattr(soapy, name))
    block.get_sample_rate.return_value = 250e3
    block.get_gain_range.return_value = Mock(minimum=lambda: 0.0, maximum=lambda: 60.0)
    monkeypatch.setattr(soapy, name, lambda *arguments: block)
    assert connect(Radio("soapy", args="driver=lime", frequency=9e8, sample_rate=250e3, bandwidth=5e6)) is block
    block.set_gain.assert_called_once_with(0, 30.0)
    block.set_bandwidth.assert_called_once_with(0, 5e6)
    if name == "sink":
        # With one it throws samples away.
        block.set_length_tag_name.assert_not_called()


@pytest.mark.parametrize("connect, name", [(radio_source, "fmcomms2_source_fc32"), (radio_sink, "fmcomms2_sink_fc32")])
def test_a_pluto_is_tuned_as_asked(connect, name, monkeypatch):
    from gnuradio import iio

    block = Mock(spec=getattr(iio, name))
    monkeypatch.setattr(iio, name, lambda *arguments: block)
    written = Mock()
    monkeypatch.setattr(iio, "device_source", written)
    radio = Radio("pluto", args="ip:pluto.local", frequency=2.45e9, gain=-20 if connect is radio_sink else 20)
    assert connect(radio) is block
    block.set_frequency.assert_called_once_with(2450000000)
    block.set_samplerate.assert_called_once_with(1000000)
    if connect is radio_sink:
        block.set_attenuation.assert_called_once_with(0, 20)
    else:
        # Twice: the first call may write the mode that was set before.
        assert block.set_gain_mode.call_args_list == [((0, "manual"),)] * 2
        assert written.call_args.args[4] == ["in_voltage_rf_bandwidth=1000000"]
    # It sends whole buffers: silence must push the last burst out.
    assert radio.silence >= radios.PLUTO_BUFFER
