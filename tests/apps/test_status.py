# SPDX-License-Identifier: GPL-3.0-or-later
"""diffjscc-rx --status, --status-line and --keep, on files and over the virtual air."""

import re
import time
import types
import urllib.request

import numpy as np
import pytest
import sigmf
from apps.test_radios import SYMBOLS, call, refusal, start
from gnuradio import blocks, gr
from gnuradio.diffjscc import keeping
from gnuradio.diffjscc.keeping import keeper

from diffjscc.air.preset import find_preset


def test_the_page_shows_what_arrives_over_the_virtual_air(images, tmp_path):
    here, there = (f"ipc://{tmp_path}/{end}" for end in ("here", "there"))
    sender = start("tx", images, "--repeat", "--radio", "zmq", "--address", here, "--sample-rate", "narrow")
    air = start("air", "--from", here, "--to", there, "--snr", "12", "--sample-rate", "narrow")
    options = ("--status", "0", "--status-line", "always", "--out", tmp_path / "out", "--sample-rate", "narrow")
    receiver = start("rx", "--radio", "zmq", "--address", there, *options)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", receiver.stderr.readline())[0]
        deadline = time.monotonic() + 60
        page = ""
        while "data:image/jpeg" not in page or page.count("nothing yet"):
            assert time.monotonic() < deadline, page
            with urllib.request.urlopen(address) as answer:
                page = answer.read().decode()
            time.sleep(0.2)
        # The line comes later than the page: twice a second.
        shown = ""
        while not re.search(r" images? · SNR 1", shown):
            assert time.monotonic() < deadline, shown
            shown += receiver.stderr.readline()
        receiver.terminate()
        receiver.communicate(timeout=60)
    finally:
        for process in (sender, air):
            process.terminate()
            process.communicate(timeout=60)
    snr_db = float(re.search(r"SNR of the last burst</th><td>([\d.]+) dB", page)[1])
    assert snr_db == pytest.approx(12, abs=1.5)
    assert re.search(r"bursts received</th><td>[1-9]", page) and "narrow" not in page
    assert "\x1b[K" in shown and receiver.returncode == 0


def test_a_port_that_is_taken_is_one_line(images, tmp_path, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        samples = tmp_path / "samples.cf32"
        np.zeros(10_000, np.complex64).tofile(samples)
        options = ["--radio", "file", "--file", samples, "--status", taken.getsockname()[1], "--out", tmp_path / "out"]
        assert "cannot bind the status page to 127.0.0.1:" in refusal("rx", options, capsys)


def test_the_last_samples_are_kept_where_a_burst_could_not_be_read(images, tmp_path, capsys):
    samples = tmp_path / "samples.cf32"
    options = ("--radio", "file", "--file", samples, "--sample-rate", "narrow")
    assert call("tx", images, *options, "--burst-symbols", SYMBOLS) == 0
    sent = np.fromfile(samples, np.complex64)
    out = tmp_path / "out"
    assert call("rx", *options, "--out", out, "--keep", 0.05) == 0
    assert not list(out.glob("kept*"))
    # The second burst's header is lost in noise.
    begin = find_preset("ofdm256").burst_len(SYMBOLS) + 4096
    random = np.random.default_rng(0)
    sent[begin + 256 : begin + 1400] = random.standard_normal((1144, 2)) @ (1, 1j)
    sent.tofile(samples)
    capsys.readouterr()
    assert call("rx", *options, "--out", out, "--keep", 0.05) == 0
    said = capsys.readouterr().err
    assert "a burst could not be read (rejected): the last 0.1 s are in" in said or "the last 0.0 s" in said
    (path,) = out.glob("kept-*.sigmf-meta")
    recording = sigmf.fromfile(str(path))
    recording.validate()
    kept = recording.read_samples()
    assert len(kept) == min(0.05 * 250e3, len(sent) + 4096) and recording.get_annotations()[0]["core:comment"] == "seen: rejected"


def counters(rejected, **dropped):
    return {"bursts": {"rejected": rejected}}, {"dropped": {name.replace("_", " "): n for name, n in dropped.items()}}


def run_keeper(folder, monkeypatch, steps, seconds=0.01, rate=100e3, samples=5000):
    """Lets a keeper see samples, then counters one after another; returns its lines."""
    monkeypatch.setattr(keeping, "AFTER", 0.0)
    said = []
    kept = keeper(seconds, folder, rate, None, said.append)
    flowgraph = gr.top_block()
    flowgraph.connect(blocks.vector_source_c(np.arange(samples, dtype=np.complex64)), kept)
    flowgraph.run()
    for step in steps:
        kept.look(*step)
        kept.close()
    return said


def test_what_is_kept_is_the_end_of_the_stream(tmp_path, monkeypatch):
    said = run_keeper(tmp_path, monkeypatch, [counters(0), counters(1)])
    assert len(said) == 1
    (path,) = tmp_path.glob("*.sigmf-data")
    assert np.array_equal(np.fromfile(path, np.complex64), np.arange(4000, 5000))


def test_few_files_are_kept_and_never_many_at_once(tmp_path, monkeypatch):
    steps = [counters(number) for number in range(20)]
    assert len(run_keeper(tmp_path / "slow", monkeypatch, steps)) == 1
    monkeypatch.setattr(keeping, "MIN_INTERVAL", 0.0)
    clock = iter(range(100, 10_000, 100))
    monkeypatch.setattr(keeping, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    names = iter(range(100))
    real = keeping.recording_paths
    monkeypatch.setattr(keeping, "recording_paths", lambda path: real(f"{path}-{next(names)}"))
    assert len(run_keeper(tmp_path / "many", monkeypatch, steps)) == keeping.MAX_FILES
    assert len(list((tmp_path / "many").glob("*.sigmf-data"))) == keeping.MAX_FILES


def test_what_is_no_fault_of_the_samples_is_not_kept_and_a_full_disk_is_spared(tmp_path, monkeypatch):
    assert run_keeper(tmp_path, monkeypatch, [counters(0, queue_full=3, stopped=1)]) == []
    assert len(run_keeper(tmp_path, monkeypatch, [counters(0, too_short=1)])) == 1
    monkeypatch.setattr(keeping, "SPARED", 1 << 60)
    (line,) = run_keeper(tmp_path / "full", monkeypatch, [counters(1)])
    assert "less than 1 GiB would be left free" in line and not list((tmp_path / "full").iterdir())
    (line,) = run_keeper("/proc/absent", monkeypatch, [counters(1)])
    assert "the last samples are not kept: /proc/absent" in line
    with pytest.raises(ValueError, match="at most 13 s fit 1 GiB"):
        keeper(60, tmp_path, 10e6, None, print)
