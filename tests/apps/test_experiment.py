# SPDX-License-Identifier: GPL-3.0-or-later
"""Experiments from the command line: a plan is sent and received, late, cut and again, and over a channel that is live."""

import json
import math
import urllib.request

import numpy as np
import pytest
import yaml
from apps.test_radios import call, finish, refusal, start

from diffjscc.evaluate.table import read_parquet
from diffjscc.experiment.plan import find_sources, load_plan
from diffjscc.experiment.schedule import Schedule
from diffjscc.images import write_image

HEVC = {"system": "separate", "code": "wifi-1/2", "constellation": "bpsk"}


def write_plan(path, images, **changes):
    values = {"systems": {"lite": "deepjscc"}, "rates": "1/32", "snrs_db": [1, 10], "images": str(images), "chirp": 8192}
    path.write_text(yaml.safe_dump(values | changes))
    return Schedule(load_plan(path), find_sources(load_plan(path)))


def table(out):
    return read_parquet(out / "table.parquet")


def summary(out):
    return read_parquet(out / "summary.parquet")


def test_a_plan_crosses_a_noisy_file_and_is_received_late_cut_and_again(images, tmp_path, capsys):
    """What was not received is a row, and never in a mean; C/N₀ predicts the SNR; the recording gives the same table again."""
    plan, sent, cut, out = tmp_path / "plan.yaml", tmp_path / "sent.cf32", tmp_path / "cut", tmp_path / "out"
    schedule = write_plan(plan, images, amplitudes=[0.7, 0.35], systems={"lite": "deepjscc", "HEVC": HEVC}, chirp_every=6)
    # HEVC needs more symbols than this rate gives: its time passes in silence.
    assert call("tx", "--experiment", plan, "--radio", "file", "--file", sent) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "sent 12 of 24 transmissions, 12 not possible" and said.err.count("\n") == 3
    samples = np.fromfile(sent, np.complex64)
    assert len(samples) == schedule.length + 4096
    random = np.random.default_rng(1)
    samples += (random.standard_normal((len(samples), 2)) @ (1, 1j) * 0.05 / math.sqrt(2)).astype(np.complex64)
    # The receiver starts in the middle of the first transmission that is analog, and one burst is lost.
    analog = [entry for entry in schedule.entries if hasattr(entry, "cell") and entry.cell.point.system == "lite"]
    late, lost = analog[0], analog[5]
    samples[lost.begin : lost.begin + 2000] = 0
    samples[late.begin + 500 :].tofile(f"{cut}.sigmf-data")
    properties = {"core:datatype": "cf32_le", "core:sample_rate": 250e3, "core:version": "1.0.0"}
    captures = [{"core:sample_start": 0}]
    (tmp_path / "cut.sigmf-meta").write_text(json.dumps({"global": properties, "captures": captures, "annotations": []}))
    assert call("rx", "--experiment", plan, "--originals", images, "--replay", cut, "--out", out) == 0
    rows = table(out)
    assert len(rows) == 24
    missing = {row["transmission"] for row in rows if row["status"] == "not received"}
    assert missing == {late.cell.number, lost.cell.number}
    assert sum(row["status"] == "cannot be sent" for row in rows) == 12
    for row in rows:
        assert row["sent"] == (row["status"] == "received") == math.isfinite(row["psnr_db"])
        if row["sent"]:
            assert row["psnr_db"] > 24 and row["received_at"] == pytest.approx(row["planned_at"] - late.begin - 500, abs=3)
            assert row["snr_measured_db"] == pytest.approx(row["snr_predicted_db"], abs=1.2)
            assert row["delay_spread_us"] < 4
    for point in summary(out):
        received = [
            row["psnr_db"] for row in rows if row["sent"] and (row["system"], row["amplitude"], row["snr_db"]) == key(point)
        ]
        assert point["rows"] == 3 and point["sent"] == len(received) and point["share_sent"] == len(received) / 3
        assert point["psnr_db"] == pytest.approx(np.mean(received)) if received else math.isnan(point["psnr_db"])
    expected = 10 * math.log10(0.7**2 / 0.05**2 * 250e3)
    assert all(row["cn0_db_hz"] == pytest.approx(expected, abs=0.5) for row in rows)
    # Peak reduction adds noise, which a lower amplitude lowers too: 6 dB less power are less than 6 dB of SNR.
    quiet, loud = (np.nanmean([row["snr_measured_db"] for row in rows if row["amplitude"] == a]) for a in (0.35, 0.7))
    assert 1.5 < loud - quiet < 6
    page = (out / "report.html").read_text()
    assert "10 of 24 transmissions were received" in page and "amplitude 0.35" in page
    # The same recording again is the same table; into the same folder it is refused.
    assert call("rx", "--experiment", plan, "--replay", cut, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again/table.parquet").read_bytes() == (out / "table.parquet").read_bytes()
    capsys.readouterr()
    assert "holds an earlier reception" in refusal("rx", ["--experiment", plan, "--replay", cut, "--out", out], capsys)


def key(row):
    return row["system"], row["amplitude"], row["snr_db"]


def test_other_images_than_the_transmitter_s_are_told(images, tmp_path, capsys):
    plan, sent = tmp_path / "plan.yaml", tmp_path / "sent.cf32"
    session = write_plan(plan, images, snrs_db=10).session
    for shade in range(100, 110):
        write_image(tmp_path / "others/a.png", np.full((160, 224, 3), shade, np.uint8))
        if Schedule(load_plan(plan), find_sources(load_plan(plan), tmp_path / "others")).session != session:
            break
    assert call("tx", "--experiment", plan, "--radio", "file", "--file", sent) == 0
    options = ("--radio", "file", "--file", sent, "--out", tmp_path / "out", "--originals", tmp_path / "others")
    assert call("rx", "--experiment", plan, *options) == 1
    assert (
        f"3 bursts were not of this plan: session {session} (this plan with these originals has session" in capsys.readouterr().out
    )


def test_a_live_experiment_that_is_interrupted_has_table_and_report_of_what_came(images, tmp_path):
    here, there = (f"ipc://{tmp_path}/{end}" for end in ("here", "there"))
    plan, out = tmp_path / "plan.yaml", tmp_path / "out"
    # A second between two images.
    write_plan(plan, images, pause=250_000, snrs_db=10, repeats=8)
    sender = start("tx", "--experiment", plan, "--radio", "zmq", "--address", here, "--sample-rate", "narrow")
    air = start("air", "--from", here, "--to", there, "--snr", "15", "--offset=-2k", "--ppm", "20", "--sample-rate", "narrow")
    radio = ("--radio", "zmq", "--address", there, "--sample-rate", "narrow")
    receiver = start("rx", "--experiment", plan, "--originals", images, *radio, "--out", out, "--status", 0)
    try:
        address = receiver.stderr.readline().split()[-1]
        first = [receiver.stdout.readline() for _ in range(2)]
        with urllib.request.urlopen(address) as answer:
            page = answer.read().decode()
        receiver.terminate()
        finish(receiver)
    finally:
        for process in (sender, air):
            process.terminate()
            process.communicate(timeout=60)
    assert all("lite, amplitude 0.7, rate 1/32: SNR" in line for line in first)
    assert "data:image/jpeg" in page and "SNR of the last burst" in page
    rows = table(out)
    received = [row for row in rows if row["sent"]]
    assert len(rows) == 24 and 2 <= len(received) < 24
    assert all(row["cfo_hz"] == pytest.approx(-2000, abs=40) for row in received)
    assert all(row["snr_measured_db"] == pytest.approx(row["snr_predicted_db"], abs=1.5) for row in received)
    assert f"{len(received)} of 24 transmissions were received" in (out / "report.html").read_text()
    annotations = json.loads((out / "received.sigmf-meta").read_text())["annotations"]
    assert len(annotations) >= len(received)
    assert {"diffjscc:transmission", "diffjscc:snr_db", "diffjscc:cfo_hz", "diffjscc:delay_spread_us"} <= annotations[0].keys()


def test_wrong_options_of_an_experiment_are_one_line(images, tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    write_plan(plan, images)
    (tmp_path / "typo.yaml").write_text(plan.read_text().replace("snrs_db", "snr_db"))
    file = ("--radio", "file", "--file", tmp_path / "absent")
    for app, arguments, message in [
        ("tx", ["--experiment", tmp_path / "typo.yaml", *file], "no key is called 'snr_db' (did you mean 'snrs_db'?)"),
        ("rx", ["--experiment", tmp_path / "typo.yaml", *file], "no key is called 'snr_db' (did you mean 'snrs_db'?)"),
        ("tx", ["--experiment", plan, images, *file], "leave out others"),
        ("tx", ["--originals", images, images, *file], "--originals belongs to --experiment"),
        ("rx", ["--replay", "x", *file], "--replay belongs to --experiment"),
        ("rx", ["--experiment", plan, "--replay", "x", *file], "leave out --radio"),
        ("rx", ["--experiment", plan, *file], "absent: no such file"),
        ("rx", ["--experiment", plan, "--images", 3, *file], "--images and --experiment do not go together"),
        ("rx", ["--experiment", plan, "--originals", tmp_path / "no", *file], "no such folder of originals"),
        ("rx", ["--experiment", plan], "name a radio"),
        ("tx", ["--experiment", plan, "--radio", "wav", "--file", tmp_path / "a.wav", "--vox"], "key the transceiver by hand"),
        ("tx", ["--experiment", plan, "--lead", 1, *file], "key the transceiver by hand"),
        ("rx", ["--experiment", plan, "--keep", 5, *file], "an experiment records everything"),
        ("rx", ["--experiment", plan, "--refine", "local", *file], "--refine and --experiment do not go together"),
    ]:
        assert message in refusal(app, arguments, capsys), arguments
