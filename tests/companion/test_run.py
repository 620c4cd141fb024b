# SPDX-License-Identifier: GPL-3.0-or-later
"""gnuradio-companion, its window and its Run button, on a screen that nobody sees."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffjscc.images import read_image, to_tensor
from diffjscc.metrics import psnr

ROOT = Path(__file__).parents[2]

#: Interpreter of the companion as GNU Radio installs it, which has no virtual environment.
SYSTEM_PYTHON = "/usr/bin/python3"


@contextmanager
def screen():
    """Display of a virtual screen."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1400x900x24"], pass_fds=[writing], stderr=subprocess.DEVNULL
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def wait_for(condition, seconds):
    """What ``condition`` returns once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.3)
    return value


def environment_of(home, display):
    """As on a desktop: the blocks are on the path, as `make grc` sets it, and a terminal is there. No virtual environment."""
    (home / ".gnuradio").mkdir(parents=True)
    (home / ".gnuradio" / "config.conf").write_text(f"[grc]\nxterm_executable = {shutil.which('xterm')}\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    return kept | {
        "HOME": str(home),
        "DISPLAY": display,
        "PYTHONPATH": str(ROOT / "build" / "test_modules"),
        "GRC_BLOCKS_PATH": str(ROOT / "build" / "grc"),
    }


@pytest.fixture
def flowgraph(tmp_path):
    """The example that the README opens, in a folder of its own: the companion writes beside it."""
    for name in ("symbol_loopback.grc", "coffee.jpg"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    return tmp_path / "symbol_loopback.grc"


def test_run_brings_the_image(flowgraph, tmp_path):
    received = tmp_path / "received" / "000000.png"
    with screen() as display:
        environment = environment_of(tmp_path / "home", display)

        def xdotool(*arguments):
            return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, text=True).stdout.split()

        command = [SYSTEM_PYTHON, shutil.which("gnuradio-companion"), str(flowgraph)]
        with open(tmp_path / "log", "w") as log:
            companion = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            window = wait_for(lambda: xdotool("search", "--onlyvisible", "--name", "symbol_loopback"), 60)[-1]
            wait_for(lambda: "Done" in (tmp_path / "log").read_text(), 60)
            xdotool("windowfocus", "--sync", window, "key", "F5")
            wait_for(lambda: list(tmp_path.glob("*_flowgraph.py")), 30)
            xdotool("windowfocus", "--sync", window, "key", "F6")
            wait_for(received.exists, 90)
            wait_for(lambda: "Executing" in (tmp_path / "log").read_text(), 10)
        except AssertionError as error:
            raise AssertionError(f"{error}: {(tmp_path / 'log').read_text()}") from None
        finally:
            companion.terminate()
            companion.wait()
    sent = read_image(flowgraph.with_name("coffee.jpg"))
    assert psnr(to_tensor(read_image(received)), to_tensor(sent)) > 18


def test_an_interpreter_without_the_package_names_itself_and_the_remedy(tmp_path):
    blocks = tmp_path / "gnuradio" / "diffjscc"
    shutil.copytree(ROOT / "build" / "test_modules" / "gnuradio" / "diffjscc", blocks)
    (blocks / "environment.txt").write_text(f"{tmp_path / 'gone'}\n")
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", "from gnuradio import diffjscc"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"ImportError: {SYSTEM_PYTHON} does not have the Python package diffjscc")
    assert "gone" in line and "sudo make install" in line


def test_only_the_blocks_see_their_environment():
    """Other programs of the system's Python go on with the system's packages."""
    code = """
import sys, numpy
before = list(sys.path)
from gnuradio import diffjscc
import diffjscc as package
assert sys.path != before and sys.path[-len(before):] == before
print(package.__file__)
"""
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "build" / "test_modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parts[-3:] == ("src", "diffjscc", "__init__.py")
