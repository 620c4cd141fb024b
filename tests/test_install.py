# SPDX-License-Identifier: GPL-3.0-or-later
"""What works with which packages installed: the core alone, the client without torch, and the remedy for what is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serve.processes import ServerProcess

import diffjscc

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]

#: Packages of the extras, by the names they are imported by.
EXTRAS = ("accelerate", "diffusers", "huggingface_hub", "prometheus_client", "ray", "torchmetrics", "tqdm", "transformers", "yaml")


def run_without(packages, code, *arguments):
    """Runs Python code in a process in which packages cannot be imported."""
    blocked = f"import sys\nfor name in {tuple(packages)!r}:\n    sys.modules[name] = None\n"
    command = [sys.executable, "-c", blocked + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run_cli_without(packages, *arguments):
    return run_without(packages, "from diffjscc.cli import main\nsys.exit(main(sys.argv[1:]))", *arguments)


def test_the_package_imports_its_names_on_first_use():
    code = """
import sys, diffjscc
assert not {"torch", "zmq", "numpy"} & set(sys.modules)
assert {"RefineClient", "load_codec", "load_refiner", "transmit", "__version__"} <= set(dir(diffjscc))
from diffjscc import RefineClient
assert "zmq" in sys.modules and "torch" not in sys.modules
from diffjscc import load_codec
assert load_codec is diffjscc.hub.load_codec
"""
    done = run_without((), code)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'diffjscc' has no attribute 'load_radio'"):
        diffjscc.load_radio  # noqa: B018


@pytest.mark.parametrize("package", ["diffjscc", "diffjscc.serve"])
def test_type_checkers_see_the_names_that_are_imported_on_first_use(package):
    """They read the imports under TYPE_CHECKING, and take __all__ for what is public."""
    module = __import__(package, fromlist=["__all__"])
    tree = ast.parse(Path(module.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {alias.name: f"{package}.{node.module}" for node in block.body for alias in node.names}
    assert set(seen) == set(module.__all__) - {"__version__"}
    for name, home in seen.items():
        assert getattr(module, name) is getattr(__import__(home, fromlist=[name]), name)
    assert (ROOT / "src" / "diffjscc" / "py.typed").is_file()


def test_images_are_encoded_sent_and_decoded_with_the_core_alone(tmp_path, images):
    done = run_cli_without(EXTRAS, "simulate", images / "coffee.png", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "coffee.png: 280 symbols, PSNR" in done.stdout


def test_the_client_needs_neither_torch_nor_any_extra():
    code = """
import numpy as np
from diffjscc import RefineClient
pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
with RefineClient(sys.argv[1]) as client:
    for encoding in ("png", "raw"):
        assert np.array_equal(client.refine(pixels, 1.0, "stub", encoding=encoding), 255 - pixels)
"""
    with ServerProcess() as server:
        done = run_without(("torch", "safetensors", *EXTRAS), code, server.address)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "missing, arguments, line",
    [
        (["diffusers"], ["simulate", "{images}", "--refiner", "mini"], "refining needs diffusers, … 'diffjscc[refine]'"),
        (["accelerate"], ["evaluate", "{images}", "--refiner", "mini"], "refining needs accelerate, … 'diffjscc[refine]'"),
        (["tqdm"], ["evaluate", "{images}"], "diffjscc evaluate needs tqdm, … 'diffjscc[evaluate]'"),
        (["yaml"], ["evaluate", "figure4"], "diffjscc evaluate needs yaml, … 'diffjscc[evaluate]'"),
        (["yaml"], ["train"], "diffjscc train needs yaml, … 'diffjscc[train]'"),
        (["prometheus_client"], ["serve"], "diffjscc serve needs prometheus_client, … 'diffjscc[serve]'"),
        (
            ["diffusers"],
            ["serve", "--bind", "tcp://127.0.0.1:*", "--status", "none"],
            "refining needs diffusers, … 'diffjscc[refine]'",
        ),
        (["ray"], ["serve", "--workers", "ray"], "a pool of workers needs ray, … 'diffjscc[cluster]'"),
        (["tqdm"], ["train", "codec-lite", "--data", "{images}", "--out", "x"], "diffjscc train needs tqdm, … 'diffjscc[train]'"),
        (
            ["diffusers"],
            ["train", "vae-mini", "--data", "{images}", "--out", "x"],
            "diffjscc train needs diffusers, … 'diffjscc[train]'",
        ),
        (["yaml"], ["models", "import", "x"], "importing a checkpoint needs yaml, … 'diffjscc[refine]'"),
        (["transformers"], ["models", "pull", "x"], "importing a checkpoint needs transformers, … 'diffjscc[refine]'"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command_and_exit_2(missing, arguments, line, images):
    done = run_cli_without(missing, *(word.format(images=images) for word in arguments))
    errors = [error for error in done.stderr.splitlines() if not error[:4].isdigit()]
    assert done.returncode == 2, done.stderr
    assert errors == [f"diffjscc: {line.replace('…', 'which is not installed: pip install')}"]


def installed_by(extra):
    """Names that can be imported where the package is installed with an extra; None: without any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules = {"pillow": "PIL", "pyyaml": "yaml", "pyzmq": "zmq"}
    wanted, names = [*project["dependencies"], *([f"diffjscc[{extra}]"] if extra else [])], set()
    while wanted:
        name, extras = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", wanted.pop()).groups()
        if name == "diffjscc":
            wanted += [requirement for inner in extras.split(",") for requirement in project["optional-dependencies"][inner]]
        else:
            names.add(modules.get(name, name))
    return names


def test_a_radio_that_refines_elsewhere_installs_no_diffusion():
    core = installed_by(None)
    assert core == {"PIL", "msgpack", "numpy", "safetensors", "torch", "zmq"}
    assert {"diffusers", "transformers", "prometheus_client"} <= installed_by("serve")
    assert {*EXTRAS} - {"huggingface_hub"} | core <= installed_by("dev")


#: The extra that each part of the package belongs to, by the first part of its path; the other parts need the core alone.
PARTS = {
    "refine": "refine",
    "checkpoints.py": "refine",
    "packaged.py": "train",
    "train": "train",
    "evaluate": "evaluate",
    "serve": "serve",
}


def test_modules_import_what_their_extra_installs():
    """Imports at the top of a module; what only a function imports may belong to another extra."""
    folder = ROOT / "src" / "diffjscc"
    for path in folder.rglob("*.py"):
        installed = installed_by(PARTS.get(path.relative_to(folder).parts[0]))
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            third_party = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert third_party <= installed, f"{path} imports {third_party - installed}"


@pytest.mark.parametrize(
    "record, remedy",
    [
        (
            "/no/such/environment\nsudo diffjscc-setup\n",
            "nor does the Python … environment /no/such/environment: run `sudo diffjscc-setup`",
        ),
        ("/no/such/environment\n", "environment /no/such/environment: run `sudo make install` in gr-diffjscc, or `"),
        ("", "does not have the Python package diffjscc: run `sudo make install` in gr-diffjscc, or `"),
    ],
)
def test_an_interpreter_without_the_package_is_told_what_to_type(tmp_path, record, remedy):
    (tmp_path / "environment.txt").write_text(record)
    # The blocks' own file, without the blocks: -I keeps every folder of the user's away, and so the package.
    code = (
        f"import runpy, pathlib; runpy.run_path({str(ROOT / 'python' / 'diffjscc' / 'environment.py')!r})"
        f"['find_package'](pathlib.Path({str(tmp_path / 'environment.txt')!r}))"
    )
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", code], capture_output=True, text=True)
    version = re.search(r"Python (3\.\d+)", done.stderr)
    assert done.returncode == 1
    assert (remedy.replace("…", version[1]) if version else remedy) in done.stderr.splitlines()[-1]


def test_uninstall_removes_all_that_was_installed_and_nothing_else(tmp_path):
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    installed = [
        prefix / name
        for name in (
            "bin/diffjscc-rx",
            "lib/cmake/gnuradio-diffjscc/gnuradio-diffjsccConfig.cmake",
            "lib/python3.11/dist-packages/gnuradio/diffjscc/__init__.py",
            "lib/python3.11/dist-packages/gr_diffjscc-0.1.0.dist-info/METADATA",
            "share/gnuradio/grc/blocks/diffjscc_jscc_rx.block.yml",
            "share/man/man1/diffjscc a b.1",
        )
    ]
    # Bytecode, an example's output, the environment, and its command; and files of others, which stay.
    beside = [
        prefix / "lib/python3.11/dist-packages/gnuradio/diffjscc/__pycache__/__init__.cpython-311.pyc",
        prefix / "lib/gr-diffjscc/bin/python",
        prefix / "bin/diffjscc",
    ]
    others = [prefix / "share/gnuradio/grc/blocks/satellites_x.block.yml", prefix / "bin/other"]
    for path in installed + beside + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    build.mkdir()
    (build / "install_manifest.txt").write_text("\n".join(map(str, installed)))
    command = ["sh", ROOT / "tools" / "uninstall.sh", build, prefix]
    subprocess.run(command, check=True)
    assert {path for path in prefix.rglob("*") if not path.is_dir()} == set(others)
    assert all(any(other.is_relative_to(path) for other in others) for path in prefix.rglob("*"))
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "nothing was installed from" in again.stderr


@pytest.mark.parametrize("app", ("diffjscc-rx", "diffjscc-tx"))
def test_the_radios_without_the_package_are_one_line(tmp_path, app):
    blocks = tmp_path / "gnuradio" / "diffjscc"
    shutil.copytree(ROOT / "build" / "test_modules" / "gnuradio" / "diffjscc", blocks)
    (blocks / "environment.txt").write_text(f"{tmp_path / 'gone'}\nsudo diffjscc-setup\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["/usr/bin/python3", ROOT / "apps" / app, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert (
        done.stderr.startswith(f"{app}: /usr/bin/python3 does not have the Python package diffjscc")
        and "diffjscc-setup" in done.stderr
    )
