# SPDX-License-Identifier: GPL-3.0-or-later
"""Every flowgraph of examples/ is compiled as the companion does it; all but those that need a radio are run."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from gnuradio import diffjscc
from serve.processes import ServerProcess

from diffjscc.images import read_image, to_tensor, write_image
from diffjscc.metrics import psnr

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in (ROOT / "examples").glob("*.grc")}
PHOTO = ROOT / "examples/coffee.jpg"


@dataclass(frozen=True)
class Run:
    """How an example is run, and what it receives.

    arguments  of the flowgraph, beside ``folder``
    shape      of its images
    refined    whether they are refined, too
    """

    arguments: dict
    shape: tuple = (400, 600, 3)
    refined: bool = False


#: Those that run without hardware; of a window the first image is waited for.
RUNS = {
    "air_interface": Run({"images": PHOTO}),
    "audio": Run({"images": PHOTO}),
    # PyAV takes an image for a video of one frame.
    "camera": Run({"camera": PHOTO}, shape=(240, 320, 3)),
    "fading": Run({"images": PHOTO}),
    "folder_watch": Run({"watched": "outbox"}),
    "live_snr": Run({"images": PHOTO}, refined=True),
    "no_cliff": Run({"images": PHOTO}),
    "no_cliff_video": Run({"camera": PHOTO}, shape=(240, 320, 3)),
    "remote_refine": Run({"images": PHOTO, "address": None}, refined=True),
    "symbol_loopback": Run({"images": PHOTO}),
}

#: One writes what the other reads.
SIGMF = ("sigmf_record", "sigmf_replay")

DEVICES = [f"{device}_{role}" for device in ("uhd", "soapy", "pluto") for role in ("transmitter", "receiver")]


@pytest.fixture
def compiled(platform, tmp_path):
    """compiled(name): the Python program that the companion makes of an example."""

    def compile_example(name):
        flowgraph = platform.make_flow_graph()
        flowgraph.import_data(platform.parse_flow_graph(str(EXAMPLES[name])))
        flowgraph.rewrite()
        flowgraph.validate()
        assert flowgraph.is_valid(), [message for _, message in flowgraph.iter_error_messages()]
        platform.Generator(flowgraph, str(tmp_path)).write()
        (program,) = tmp_path.glob(f"{name}*.py")
        compile(program.read_text(), str(program), "exec")
        return program

    return compile_example


def run(program, arguments, seconds=120):
    """Runs a flowgraph without a window to its end; what it said."""
    # The program runs in another folder.
    modules = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
    environment = os.environ | {"HOME": str(program.parent), "PYTHONPATH": modules}
    command = [sys.executable, program, *(word for name, value in arguments.items() for word in (f"--{name}", value))]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([*map(str, command)], **streams, text=True, env=environment, cwd=program.parent, timeout=seconds)
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def watch(application, program, arguments, done, seconds=120):
    """Runs a flowgraph with a window in this process, which saves the imports, until ``done()``."""
    spec = importlib.util.spec_from_file_location(program.stem, program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flowgraph = getattr(module, program.stem)(**{name: str(value) for name, value in arguments.items()})
    flowgraph.show()
    flowgraph.start()
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.01)
    shown = [view.widget.line.text() for view in vars(flowgraph).values() if isinstance(view, diffjscc.qt_image_view)]
    flowgraph.stop()
    flowgraph.wait()
    flowgraph.hide()
    assert done(), "no image came"
    return shown


def test_every_example_is_run_or_needs_a_radio():
    assert sorted([*RUNS, *SIGMF, *DEVICES]) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", RUNS)
def test_an_example_receives_its_image(name, compiled, application, tmp_path, monkeypatch):
    """A window is left once the image is there; the others end by themselves. A service is started where one is asked for."""
    example, folder, server = RUNS[name], tmp_path / "out", contextlib.nullcontext()
    window = yaml.safe_load(EXAMPLES[name].read_text())["options"]["parameters"]["generate_options"] == "qt_gui"
    arguments = example.arguments | {"folder": folder}
    if "address" in arguments:
        serve = (sys.executable, "-m", "diffjscc.cli", "serve", "--bind", "tcp://127.0.0.1:*", "--status", "127.0.0.1:0")
        server = ServerProcess(command=serve, timeout=120)
        arguments["address"] = server.address
    if "watched" in arguments:
        write_image(tmp_path / "outbox" / "dropped.png", read_image(PHOTO))

    def received():
        """Of windows some images are dropped where the machine is slow."""
        return sorted(folder.glob("??????.png")), sorted(folder.glob("*_refined.png")) if example.refined else [True]

    if window:
        monkeypatch.chdir(tmp_path)
        shown = watch(application, compiled(name), arguments, lambda: all(received()))
        assert shown
    else:
        with server:
            said = run(compiled(name), arguments)
        assert all(received()), said
    assert read_image(received()[0][0]).shape == example.shape


def test_what_sigmf_record_records_sigmf_replay_receives(compiled, application, tmp_path, monkeypatch):
    run(compiled("sigmf_record"), {"images": PHOTO, "recording": "today"})
    received = tmp_path / "out" / "000000.png"
    monkeypatch.chdir(tmp_path)
    watch(application, compiled("sigmf_replay"), {"recording": "today", "folder": tmp_path / "out"}, received.exists)
    assert psnr(to_tensor(read_image(received)), to_tensor(read_image(PHOTO))) > 23


@pytest.mark.parametrize("name", DEVICES)
def test_a_radio_s_example_compiles(name, compiled):
    compiled(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_options_of_an_example_have_letters_of_their_own(name):
    """Of two with the same letter the program would refuse to start."""
    letters = [b["parameters"]["short_id"] for b in yaml.safe_load(EXAMPLES[name].read_text())["blocks"] if b["id"] == "parameter"]
    assert len(letters) == len(set(letters))


def test_no_example_with_a_window_writes_files_unless_it_is_told_to():
    """A flowgraph that repeats would fill the disk."""
    for path in EXAMPLES.values():
        flowgraph = yaml.safe_load(path.read_text())
        repeats = any(block["parameters"].get("repeat") == "True" for block in flowgraph["blocks"])
        for block in flowgraph["blocks"]:
            if block["name"] == "folder" and repeats:
                assert block["parameters"]["value"] == "", path
