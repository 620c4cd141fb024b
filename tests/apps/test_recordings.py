# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording what is received, and receiving it again."""

import json
import subprocess
import sys

import numpy as np
import pmt
import pytest
import sigmf
from apps.test_radios import APPS, SYMBOLS, call, refusal, samples_of
from blocks.flowgraphs import wait_until
from gnuradio import blocks, gr
from gnuradio.diffjscc.radios import SILENCE, Radio, radio_source
from gnuradio.diffjscc.recordings import read_recording
from gnuradio.diffjscc.sigmf_writer import recorder

from diffjscc.air.preset import find_preset
from diffjscc.images import find_images


@pytest.fixture(scope="module")
def on_the_air(images, tmp_path_factory):
    """A recording of three images, each in two bursts."""
    name = tmp_path_factory.mktemp("air") / "sent"
    options = ("--sample-rate", "narrow", "--frequency", "2.45G", "--burst-symbols", SYMBOLS // 2)
    assert call("tx", images, "--radio", "sigmf", "--file", name, *options) == 0
    return name


def written_recording(name, numbers, captures, **fields):
    """A recording made by hand. numbers: array of the file's type."""
    numbers.tofile(f"{name}.sigmf-data")
    properties = {"core:version": "1.0.0", "core:sample_rate": 1e6} | fields
    name.with_name(f"{name.name}.sigmf-meta").write_text(
        json.dumps({"global": properties, "captures": captures, "annotations": []})
    )


def test_each_burst_is_annotated_where_it_is(on_the_air, tmp_path):
    recorded = tmp_path / "recorded"
    assert call("rx", "--radio", "sigmf", "--file", on_the_air, "--out", tmp_path / "out", "--record", recorded) == 0
    recording = sigmf.fromfile(f"{recorded}.sigmf-meta")
    recording.validate()
    annotations = recording.get_annotations()
    assert [annotation["core:label"] for annotation in annotations] == [f"image {n // 2}, {n % 2 + 1} of 2" for n in range(6)]
    assert all(annotation["diffjscc:snr_db"] > 30 and abs(annotation["diffjscc:cfo_hz"]) < 1 for annotation in annotations)
    level = np.abs(recording.read_samples())
    for annotation in annotations:
        start, count = annotation["core:sample_start"], annotation["core:sample_count"]
        assert count == find_preset("ofdm256").burst_len(SYMBOLS // 2)
        # A detector is sure of a start to a few samples.
        assert np.mean(level[max(0, start - 32) : max(1, start - 4)]) < 0.01 or start < 4
        assert np.mean(level[start + 4 : start + 32]) > 0.5
        assert np.mean(level[start + count + 8 : start + count + 40]) < 0.01


def test_nothing_is_overwritten_and_nothing_recorded_into_itself(on_the_air, tmp_path, capsys):
    before = (on_the_air.with_suffix(".sigmf-data")).read_bytes()
    out = ("--out", tmp_path / "out")
    for options in [("--radio", "sigmf", "--file", on_the_air, *out), ("--radio", "zmq", *out)]:
        line = refusal("rx", [*options, "--record", f"{on_the_air}.sigmf-meta"], capsys)
        assert line.endswith("sent.sigmf-data: exists: give the recording another name")
    assert on_the_air.with_suffix(".sigmf-data").read_bytes() == before


def run_recorder(block, tags=(), samples=1000):
    flowgraph = gr.top_block()
    flowgraph.connect(blocks.vector_source_c(np.arange(samples), tags=list(tags)), block)
    flowgraph.run()
    return json.loads(block._meta.read_text())


def test_a_new_time_of_the_radio_begins_a_new_capture(tmp_path):
    def tag(offset, key, value):
        return gr.python_to_tag({"offset": offset, "key": pmt.intern(key), "value": value, "srcid": pmt.PMT_F})

    def time_of(seconds, fraction):
        return pmt.make_tuple(pmt.from_uint64(seconds), pmt.from_double(fraction))

    tags = [
        tag(0, "rx_time", time_of(7, 0.25)),
        tag(0, "rx_freq", pmt.from_double(1e9)),
        tag(600, "rx_time", time_of(8, 0.5)),
        tag(600, "rx_freq", pmt.from_double(2e9)),
    ]
    block = recorder(tmp_path / "x", 1e6)
    block.annotate(700, 10, "found", snr_db=float("nan"))
    metadata = run_recorder(block, tags)
    first, second = metadata["captures"]
    assert (first["core:sample_start"], first["core:frequency"], first["diffjscc:rx_time"]) == (0, 1e9, 7.25)
    assert (second["core:sample_start"], second["core:frequency"], second["diffjscc:rx_time"]) == (600, 2e9, 8.5)
    assert metadata["annotations"] == [{"core:sample_start": 700, "core:sample_count": 10, "core:label": "found"}]
    sigmf.fromfile(str(tmp_path / "x.sigmf-meta")).validate()


def test_samples_that_a_slow_disk_leaves_out_are_counted_and_annotations_stay_in_their_place(tmp_path, monkeypatch):
    block = recorder(tmp_path / "x", 1e6)
    # The thread that writes begins late: the queue is full meanwhile.
    monkeypatch.setattr("gnuradio.diffjscc.sigmf_writer.QUEUE", 8 * 4096)
    held, write = [], block._write
    monkeypatch.setattr(block, "_write", lambda: (wait_until(lambda: held, 10), write()))
    flowgraph = gr.top_block()
    source, gate = blocks.vector_source_c(np.arange(100_000)), blocks.head(gr.sizeof_gr_complex, 100_000)
    flowgraph.connect(source, gate, block)
    flowgraph.start()
    wait_until(lambda: block.lost or block.nitems_read(0) == 100_000, 10)
    held.append(True)
    flowgraph.wait()
    assert block.lost and block.failed is None
    recording = read_recording(tmp_path / "x")
    assert sum(part.length for part in recording.parts) + block.lost == 100_000
    assert sum(part.gap for part in recording.parts) <= block.lost
    values = samples_of(radio_source(Radio("sigmf", file=str(tmp_path / "x")))).real
    # What is there is whole, and silence stands for the rest.
    assert values[0] == 0 and set(np.unique(np.diff(values[values > 0]))) >= {1}


#: Runs an app under a limit of the size of its files: like a disk that is full there.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_full_disk_ends_the_recording_and_not_the_reception(on_the_air, images, tmp_path):
    limit = 100_000
    assert (on_the_air.with_suffix(".sigmf-data")).stat().st_size > 2 * limit
    command = [sys.executable, APPS["rx"], "--radio", "sigmf", "--file", on_the_air, "--out", tmp_path / "out"]
    line = [sys.executable, "-c", LIMITED, str(limit), *map(str, command), "--record", str(tmp_path / "x")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    (told,) = (line for line in done.stderr.splitlines() if "recording ended" in line)
    assert told.startswith(f"diffjscc-rx: {tmp_path}/x.sigmf-data: file too large: recording ended after ")
    assert len(find_images(tmp_path / "out")) == 3
    recording = sigmf.fromfile(str(tmp_path / "x.sigmf-meta"))
    recording.validate()
    assert 0.9 * limit <= (tmp_path / "x.sigmf-data").stat().st_size <= limit


def test_a_recording_of_a_killed_receiver_can_be_read(on_the_air, tmp_path):
    """Its metadata are there from the beginning."""
    block = recorder(tmp_path / "x", 1e6, hold_back=True)
    flowgraph = gr.top_block()
    flowgraph.connect(blocks.null_source(gr.sizeof_gr_complex), blocks.throttle(gr.sizeof_gr_complex, 1e6), block)
    flowgraph.start()
    wait_until(lambda: read_parts(tmp_path / "x"), 10)
    flowgraph.stop()
    flowgraph.wait()


def read_parts(name):
    try:
        return read_recording(name).parts
    except ValueError:
        return ()


@pytest.mark.parametrize(
    "datatype, type_, scale, middle",
    [
        ("cf32_le", "<f4", 1, 0),
        ("ci16_le", "<i2", 32768, 0),
        ("ci16_be", ">i2", 32768, 0),
        ("ci8", "i1", 128, 0),
        ("cu8", "u1", 128, 127.5),
    ],
)
def test_recordings_of_other_types_are_read(tmp_path, datatype, type_, scale, middle):
    expected = np.array([0.5 - 0.25j, -0.75, 0.75j, 0.125 + 0.5j], np.complex64)
    if datatype == "cu8":
        expected = expected + (1 + 1j) / 256
    numbers = (expected.astype(np.complex64).view(np.float32) * scale + middle).astype(type_)
    written_recording(tmp_path / "x", numbers, [{"core:sample_start": 0}], **{"core:datatype": datatype})
    assert np.allclose(samples_of(radio_source(Radio("sigmf", file=str(tmp_path / "x")))), [*expected, *[0] * SILENCE], atol=1e-6)


def test_headers_in_the_file_and_missing_samples_are_respected(tmp_path):
    """Two captures, each behind a header of its own; 5 samples are missing between them."""
    header = np.full(3, 0x7F, np.uint8)
    first, second = np.arange(1, 9, dtype=np.int8), np.arange(11, 15, dtype=np.int8)
    numbers = np.concatenate((header, first.view(np.uint8), header[:1], second.view(np.uint8)))
    captures = [
        {"core:sample_start": 0, "core:header_bytes": 3, "core:global_index": 100},
        {"core:sample_start": 4, "core:header_bytes": 1, "core:global_index": 109},
    ]
    written_recording(tmp_path / "x", numbers, captures, **{"core:datatype": "ci8"})
    values = samples_of(radio_source(Radio("sigmf", file=str(tmp_path / "x"))))
    numbers = np.concatenate((first, np.zeros(10), second)).astype(np.float32) / 128
    assert np.array_equal(values[:-SILENCE], numbers.view(np.complex64))


@pytest.mark.parametrize(
    "captures, message",
    [
        ([{"core:sample_start": "0"}], "'0' is no number of samples"),
        ([{"core:sample_start": 4}, {"core:sample_start": 0}], "not in the order"),
        ([{"core:sample_start": 0, "core:header_bytes": -1}], "-1 is no number"),
        ([{"core:sample_start": 0, "core:header_bytes": 1000}], "holds no samples"),
        ([{"core:sample_start": 0, "core:frequency": True}], "True is neither"),
        ([7], "not the metadata"),
    ],
)
def test_captures_that_cannot_be_are_one_line(captures, message, tmp_path, capsys):
    written_recording(tmp_path / "x", np.zeros(16, np.int8), captures, **{"core:datatype": "ci8"})
    assert message in refusal("rx", ["--radio", "sigmf", "--file", tmp_path / "x"], capsys)
