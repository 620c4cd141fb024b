# SPDX-License-Identifier: GPL-3.0-or-later
"""gnuradio-companion, its window and its Run button, on a screen that nobody sees."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diffjscc.images import read_image, to_tensor
from diffjscc.metrics import psnr

ROOT = Path(__file__).parents[2]

#: Interpreter of the companion as GNU Radio installs it, which has no virtual environment.
SYSTEM_PYTHON = "/usr/bin/python3"

#: How `make grc` starts the companion.
WITH_BLOCKS = [ROOT / "tools" / "with-blocks.sh", sys.executable, ROOT / "build"]


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
    """As on a desktop whose user has configured nothing. No virtual environment."""
    home.mkdir(parents=True)
    # Tests of windows without a screen set QT_QPA_PLATFORM for the whole process.
    foreign = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "QT_QPA_PLATFORM")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return kept | {"HOME": str(home), "DISPLAY": display}


@contextmanager
def companion(flowgraph, folder, display):
    """gnuradio-companion with a flowgraph open, in an environment of its own under ``folder``.

    Gives functions that press a key in its window, and that return xdotool's output.
    """
    environment, log = environment_of(folder / "home", display), folder / "log"

    def xdotool(*arguments):
        return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, text=True).stdout.split()

    def press(key):
        xdotool("windowfocus", "--sync", window, "key", key)

    command = [*WITH_BLOCKS, "gnuradio-companion", flowgraph]
    with open(log, "w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        window = wait_for(lambda: xdotool("search", "--onlyvisible", "--name", flowgraph.stem), 60)[-1]
        wait_for(lambda: "Done" in log.read_text(), 60)
        yield press, xdotool
        wait_for(lambda: "Executing" in log.read_text(), 10)
    except AssertionError as error:
        raise AssertionError(f"{error}: {log.read_text()}") from None
    finally:
        process.terminate()
        process.wait()


def test_run_brings_the_image(tmp_path):
    """The example that the README opens, in a folder of its own: the companion writes beside it."""
    for name in ("symbol_loopback.grc", "coffee.jpg"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    received = tmp_path / "received" / "000000.png"
    with screen() as display, companion(tmp_path / "symbol_loopback.grc", tmp_path, display) as (press, _):
        press("F5")
        wait_for(lambda: list(tmp_path.glob("*_flowgraph.py")), 30)
        press("F6")
        wait_for(received.exists, 90)
    assert psnr(to_tensor(read_image(received)), to_tensor(read_image(tmp_path / "coffee.jpg"))) > 18


#: What someone makes who drags four blocks, connects them, and types the image's name.
DRAGGED = """
import sys
from gnuradio import gr
from gnuradio.grc.core.platform import Platform

parts = gr.major_version(), gr.api_version(), gr.minor_version()
platform = Platform(version=gr.version(), version_parts=parts, prefs=gr.prefs())
platform.build_library()
flowgraph = platform.make_flow_graph()
flowgraph.options_block.params["id"].set_value("dragged")
names = ("diffjscc_jscc_tx", "channels_channel_model", "diffjscc_jscc_rx", "diffjscc_qt_image_view")
transmitter, channel, receiver, view = blocks = [flowgraph.new_block(name) for name in names]
for number, block in enumerate(blocks):
    block.params["id"].set_value(f"block_{number}")
    block.states["coordinate"] = 16 + 320 * number, 200
transmitter.params["source"].set_value("coffee.jpg")
flowgraph.rewrite()

def connect(one, output, other, input):
    (source,), (sink,) = ([p for p in ports if p.name == name] for ports, name in ((one.sources, output), (other.sinks, input)))
    flowgraph.connect(source, sink)

connect(transmitter, "out", channel, "in")
connect(channel, "out", receiver, "in")
connect(receiver, "images", view, "images")
flowgraph.rewrite()
flowgraph.validate()
assert flowgraph.is_valid(), list(flowgraph.iter_error_messages())
platform.save_flow_graph(sys.argv[1], flowgraph)
"""


def test_four_blocks_and_the_image_s_name_are_all_that_it_takes_to_see_it(tmp_path):
    shutil.copy(ROOT / "examples" / "coffee.jpg", tmp_path)
    path = tmp_path / "dragged.grc"
    subprocess.run(
        [*WITH_BLOCKS, SYSTEM_PYTHON, "-c", DRAGGED, path], env=environment_of(tmp_path / "maker", ""), check=True, timeout=60
    )

    def saucer():
        """Pixels of the screen that are as red as the saucer in the photograph; the companion has none."""
        shot = ["import", "-display", display, "-window", "root", "-depth", "8", "rgb:-"]
        red, green, blue = np.frombuffer(subprocess.run(shot, capture_output=True).stdout, np.uint8).reshape(-1, 3).T.astype(int)
        return int(((red > 110) & (green < red // 2) & (blue < red // 2)).sum())

    with screen() as display, companion(path, tmp_path, display) as (press, _):
        before = saucer()
        press("F6")
        wait_for(lambda: saucer() > before + 5000, 90)


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


def test_a_folder_with_the_package_s_name_is_not_taken_for_it(tmp_path):
    """Such as a clone of the repository beside the flowgraph."""
    (tmp_path / "diffjscc").mkdir()
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", "from gnuradio import diffjscc"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "build" / "test_modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_images_are_refined_under_the_companion_s_interpreter(tmp_path):
    """GNU Radio imports NumPy before the blocks find their environment, and what refines must not need another one."""
    code = """
import numpy as np
from PyQt5 import Qt
from gnuradio import diffjscc, gr
from diffjscc.hub import load_refiner
print(load_refiner("mini")(np.zeros((64, 64, 3), np.uint8), 1.0).images[0].size)
"""
    done = subprocess.run(
        [*WITH_BLOCKS, SYSTEM_PYTHON, "-c", code],
        env=environment_of(tmp_path / "home", ""),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip().endswith("(64, 64)"), done.stderr


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
