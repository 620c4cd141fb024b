# SPDX-License-Identifier: GPL-3.0-or-later
"""What gnuradio-companion makes of the blocks and the examples."""

import ast
import contextlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from blocks.flowgraphs import wait_until
from gnuradio import diffjscc, gr
from gnuradio.grc.core.platform import Platform
from serve.processes import ServerProcess

from diffjscc.images import read_image

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.grc"))
BLOCKS = sorted(path.name.removeprefix("diffjscc_").removesuffix(".block.yml") for path in (ROOT / "grc").glob("*.block.yml"))

#: Of a form, what becomes the block's one parameter ``refinement``.
REFINEMENT = {"refine", "refiner", "address", "server_key", "secret_key", "refine_deadline"}

#: Forms begin with these instead of the constructor's defaults.
OTHER_DEFAULTS = {("image_file_sink", "folder")}


@pytest.fixture(scope="module")
def platform():
    """The companion's own library, with these blocks."""
    parts = gr.major_version(), gr.api_version(), gr.minor_version()
    made = Platform(version=gr.version(), version_parts=parts, prefs=gr.prefs())
    made.build_library([*made.config.block_paths, str(ROOT / "grc")])
    return made


def rendered(platform, name, **parameters):
    """The Python expression that the companion makes of a form, with its defaults but for ``parameters``."""
    flowgraph = platform.make_flow_graph()
    block = flowgraph.new_block(f"diffjscc_{name}")
    for parameter, value in parameters.items():
        block.params[parameter].set_value(value)
    flowgraph.rewrite()
    flowgraph.validate()
    return block.templates.render("make")


def built(expression):
    return eval(expression, {"diffjscc": diffjscc})


@pytest.mark.parametrize("name", BLOCKS)
def test_a_form_makes_its_block_by_keywords_with_the_block_s_own_defaults(platform, application, name):
    make = rendered(platform, name)
    if name.startswith("qt_"):
        # What follows puts its widget into the flowgraph's window.
        make = make.strip().splitlines()[0]
    assert built(make).name() == name
    call = ast.parse(make, mode="eval").body
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert not call.args
    form = yaml.safe_load((ROOT / "grc" / f"diffjscc_{name}.block.yml").read_text())
    ids = {parameter["id"] for parameter in form["parameters"]} - {"gui_hint"}
    constructor = getattr(diffjscc, name).__init__
    if not inspect.isfunction(constructor):
        # C++ blocks tell no signature; they refuse keywords that they do not know.
        assert given.keys() == ids
        return
    own = {key: value.default for key, value in list(inspect.signature(constructor).parameters.items())[1:]}
    if "refinement" in own:
        assert ids == own.keys() - {"refinement"} | REFINEMENT
        assert own.pop("refinement") is None
    else:
        assert ids == own.keys()
    assert given.keys() == own.keys()
    for key, default in own.items():
        assert given[key] == default or (name, key) in OTHER_DEFAULTS, f"{key}: {given[key]} in the form, {default} in the block"


@pytest.mark.parametrize("name", ["jscc_sink", "jscc_rx"])
def test_a_form_builds_the_refinement_object(platform, name):
    def refinement(**parameters):
        block = built(rendered(platform, name, **parameters))
        return (block if name == "jscc_sink" else block._sink)._refinement

    assert refinement() is None
    local = refinement(refine="local", queue_size="3", on_full="drop")
    assert isinstance(local, diffjscc.LocalRefinement) and (local._size, local._on_full) == (3, "drop")
    remote = refinement(refine="remote", refiner="other", address="tcp://127.0.0.1:9", refine_deadline="7", queue_size="2")
    assert isinstance(remote, diffjscc.RemoteRefinement) and (remote._size, remote._on_full) == (16, "wait")
    assert (remote._refiner_name, remote._deadline, remote._client.address) == ("other", 7.0, "tcp://127.0.0.1:9")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_compiles_and_receives_its_image(example, tmp_path):
    """A window is closed once the image is there; the others end by themselves. A service is started where one is asked for."""
    options = yaml.safe_load(example.read_text())
    parameters = {block["name"] for block in options["blocks"] if block["id"] == "parameter"}
    window = options["options"]["parameters"]["generate_options"] == "qt_gui"
    environment = os.environ | {"GRC_BLOCKS_PATH": str(ROOT / "grc"), "HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}
    compiled = subprocess.run(["grcc", "-o", tmp_path, example], capture_output=True, text=True, env=environment, timeout=60)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    (script,) = tmp_path.glob("*.py")
    folder, server = tmp_path / "out", contextlib.nullcontext()
    arguments = {"images": ROOT / "examples/coffee.jpg", "folder": folder}
    if "address" in parameters:
        serve = (sys.executable, "-m", "diffjscc.cli", "serve", "--bind", "tcp://127.0.0.1:*", "--status", "127.0.0.1:0")
        server = ServerProcess(command=serve, timeout=120)
        arguments["address"] = server.address
    command = [sys.executable, script, *(word for name, value in arguments.items() for word in (f"--{name}", value))]
    with server, open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            wait_until(lambda: process.poll() is not None or (window and list(folder.glob("*.png"))), 120)
        finally:
            process.terminate()
            process.wait(30)
        log.seek(0)
        said = log.read()
    assert process.returncode == 0 and "Traceback" not in said, said
    assert read_image(folder / "000000.png").shape == (400, 600, 3)
    assert (folder / "000000_refined.png").exists() == ("address" in parameters), said
