# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc doctor`: what it says of machines where things are missing, hang or crash."""

import json
import os
import sys
from pathlib import Path

import pytest

from diffjscc.cli import main
from diffjscc.doctor import CHECKS, State, gnuradio, hardware, package, programs


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose programs are only those that a test makes: a function of a name and the lines of a shell script."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def add(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")
        path.chmod(0o755)

    return add


def states(findings):
    return [(finding.state, finding.what) for finding in findings]


def test_the_whole_report_of_this_machine(capsys):
    status = main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["subject"] for row in rows} == set(CHECKS)
    assert all(row["remedy"] for row in rows if row["state"] == "wrong")
    # The blocks are importable, by way of the environment that the test runs in; the companion's list depends on it.
    blocks = [row for row in rows if row["subject"] == "GNU Radio" and row["what"].startswith("blocks in")]
    assert (
        len(blocks) == 1
        and "send and receive an image" in blocks[0]["what"]
        and status == any(row["state"] == "wrong" for row in rows)
    )
    assert any("encodes and decodes 256×256 pixels" in row["what"] for row in rows)


def test_the_blocks_descriptions_are_found_by_path(monkeypatch):
    monkeypatch.setenv("GRC_BLOCKS_PATH", str(Path(__file__).parents[1] / "grc"))
    companion = programs.find("gnuradio-companion")
    found = [what for state, what in states(gnuradio.check_companion(companion, "/usr/bin/python3")) if state is State.GOOD]
    assert any("of these blocks, from" in what for what in found)


def test_no_gnu_radio_at_all(machine, monkeypatch):
    machine("python", "echo 'ModuleNotFoundError: No module named gnuradio' >&2; exit 1")
    monkeypatch.setattr(gnuradio, "USUAL_PYTHON", "python")
    (finding,) = gnuradio.check_gnuradio()
    assert finding.state is State.ABSENT and finding.remedy == "sudo apt-get install gnuradio"


def test_radios_that_hang_crash_or_are_not_there(machine, monkeypatch):
    monkeypatch.setattr(programs, "run", lambda command, limit=5.0, run=programs.run: run(command, limit))
    machine("uhd_find_devices", "sleep 60")
    machine("SoapySDRUtil", "kill -SEGV $$")
    machine("iio_info", "echo 'Available contexts:'; echo '0: 0456:b673 (PlutoSDR), serial=1 [usb:1.5.5]'")
    uhd, soapy, pluto = hardware.check_radios()
    assert (uhd.state, soapy.state, pluto.state) == (State.WRONG, State.WRONG, State.GOOD)
    assert "did not answer within 5 s" in uhd.what and "SIGSEGV" in soapy.what and "usb:1.5.5" in pluto.what


def test_a_program_that_hangs_takes_its_children_with_it(machine, tmp_path):
    machine("hangs", f"sleep 77.5 & echo $! > {tmp_path}/child; wait")
    assert "did not answer" in programs.run(["hangs"], 1.0).fault
    child = int((tmp_path / "child").read_text())
    # Dead, or a zombie that its new parent has yet to reap.
    assert not os.path.exists(f"/proc/{child}") or " Z " in Path(f"/proc/{child}/stat").read_text()


def test_a_broken_model_and_a_feature_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    monkeypatch.setenv("DIFFJSCC_MODELS", str(tmp_path))
    assert any(state is State.WRONG and what.startswith("bad: broken") for state, what in states(package.check_models()))
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = [finding for finding in package.check_features() if finding.state is State.ABSENT]
    assert [finding.remedy for finding in missing] == [f"{sys.executable} -m pip install 'diffjscc[cluster]'"]


@pytest.mark.parametrize("first", ("", "#!/usr/bin/env no-such-python", "#!", "\x00\xff", "#!/usr/bin/env"))
def test_an_odd_companion_is_taken_to_have_the_usual_interpreter(tmp_path, first):
    (tmp_path / "gnuradio-companion").write_text(first)
    assert gnuradio.companion_python(str(tmp_path / "gnuradio-companion")) == gnuradio.USUAL_PYTHON


def test_a_check_that_fails_itself_is_a_finding_and_ends_no_other(monkeypatch, capsys):
    def broken():
        yield package.good("so far so good")
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("diffjscc.doctor.CHECKS", {"One": broken, "Two": lambda: iter([package.good("fine")])})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "✓ so far so good" in out and "✗ could not be examined: RuntimeError: first line" in out and "✓ fine" in out


def test_without_torch_each_check_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for check in (package.check_python, package.check_models, hardware.check_compute):
        faults = [finding for finding in check() if finding.state is State.WRONG]
        assert len(faults) == 1 and "torch" in faults[0].what and "-m pip install --force-reinstall" in faults[0].remedy


def test_a_gpu_that_is_listed_and_cannot_compute(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = list(hardware.check_compute())[1]
    assert gpu.state is State.WRONG and gpu.what.startswith("cuda:0 is there but cannot compute: ") and "nvidia-smi" in gpu.remedy


@pytest.mark.parametrize(
    "says, remedy",
    [
        ("[ERROR] Could not find path for image: usrp_b200_fw.hex", "sudo uhd_images_downloader"),
        ("USB open failed: insufficient permissions.", "sudo usermod -aG plugdev $USER"),
        ("libusb_open: LIBUSB_ERROR_ACCESS", "sudo usermod -aG plugdev $USER"),
        ("claim: LIBUSB_ERROR_BUSY", "end the other program"),
    ],
)
def test_a_radio_that_is_there_and_cannot_be_used(machine, says, remedy):
    machine("uhd_find_devices", f"echo '{says}' >&2; echo 'No UHD Devices Found'; exit 1")
    uhd = next(hardware.check_radios())
    assert uhd.state is State.WRONG and says in uhd.what and uhd.remedy.startswith(remedy)


def python_that_answers(machine, *answers, condition=""):
    """An interpreter that answers one question after the other with these lines, where a condition of the shell holds."""
    lines = "\n".join(f"{number}) echo '{answer}';;" for number, answer in enumerate(answers))
    count = "count=$(cat $0.count 2>/dev/null || echo 0); echo $((count + 1)) > $0.count"
    machine(
        "python", f"{condition or ':'} || {{ echo 'ImportError: no blocks' >&2; exit 1; }}\n{count}\ncase $count in\n{lines}\nesac"
    )


def test_blocks_and_package_of_different_versions(machine):
    python_that_answers(machine, '["/b/x.py", "0.0.9", "/p/x.py", "0.1.0"]')
    (blocks,) = gnuradio.check_blocks("python")
    assert blocks.state is State.WRONG and "blocks 0.0.9 in /b/x.py and package 0.1.0 in /p/x.py do not fit" in blocks.what


def test_blocks_that_send_no_image(machine):
    python_that_answers(machine, '["/b/x.py", "0.1.0", "/p/x.py", "0.1.0"]', "0")
    (blocks,) = gnuradio.check_blocks("python")
    assert blocks.state is State.WRONG and "the blocks in /b do not send an image: it did not arrive" in blocks.what


@pytest.mark.parametrize("built", (True, False))
def test_blocks_that_are_built_and_not_installed(machine, tmp_path, monkeypatch, built):
    monkeypatch.setattr(gnuradio, "built_blocks", lambda: tmp_path / "modules" if built else None)
    answers = ('["/b/x.py", "0.1.0", "/p/x.py", "0.1.0"]', "1")
    python_that_answers(machine, *answers, condition=f'[ "${{PYTHONPATH%%:*}}" = {tmp_path}/modules ]')
    first, *others = gnuradio.check_blocks("python")
    if built:
        assert first.state is State.ABSENT and "built in" in first.what and "make grc works without" in first.remedy
        assert [finding.state for finding in others] == [State.GOOD]
    else:
        assert first.state is State.WRONG and "cannot import these blocks: ImportError: no blocks" in first.what and not others
