# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house that code can check."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sources(*folders):
    """Python files of the repository's folders, apps without a suffix included."""
    for folder in folders:
        found = [
            p for p in (ROOT / folder).rglob("*") if p.suffix == ".py" or (folder == "apps" and p.name.startswith("diffjscc-"))
        ]
        assert found, f"{folder} has no Python files"
        yield from found


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_the_package_never_imports_gnuradio():
    for path in sources("src"):
        assert not {"gnuradio", "pmt"} & set(imported(path)), path


def test_arrows_point_one_way():
    """cli → experiment → (doctor | train | evaluate | serve) → hub → refine → codec → air, channel, images."""
    layers = [
        {"cli"},
        {"experiment"},
        {"doctor", "train", "evaluate", "serve"},
        {"checkpoints"},
        {"hub"},
        {"refine"},
        {"codec"},
        {"air", "channel", "images"},
        {"metrics", "packaged", "ray_cluster", "symbols", "weights"},
        {"errors", "fields", "folders", "lazy", "snr"},
    ]
    level = {name: depth for depth, names in enumerate(layers) for name in names}
    for path in (ROOT / "src" / "diffjscc").rglob("*.py"):
        relative = path.relative_to(ROOT / "src" / "diffjscc")
        if relative.parts[0] == "__init__.py":
            continue
        here = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            # ``from ..x import y`` names a sibling layer when it climbs out of this one.
            if isinstance(node, ast.ImportFrom) and node.level == len(relative.parts):
                for name in [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]:
                    if name in level:
                        assert level[here] < level[name] or here == name, f"{relative} imports {name}"


def test_importing_the_package_imports_no_torch():
    code = "import sys, diffjscc, diffjscc.hub, diffjscc.images, diffjscc.symbols, diffjscc.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_codecs_run_without_torchvision_and_diffusers():
    code = """
import sys
for name in ("torchvision", "diffusers", "transformers", "torchmetrics"):
    sys.modules[name] = None
import torch
from diffjscc.channel import transmit
from diffjscc.hub import load_codec
codec = load_codec()
symbols = codec.encode(torch.rand(3, 64, 64), 1.0)
assert codec.decode(transmit(symbols, 1.0), symbols.header).shape == (3, 64, 64)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_is_unpickled():
    for path in sources("src", "python", "apps", "examples"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and k.value.value is True for k in node.keywords), f"{path}: {ast.unparse(node)}"
        assert not {"pickle", "dill", "cloudpickle", "joblib"} & set(imported(path)), path


def test_one_thing_has_one_name():
    """An image is never called a picture, a preset never a format, a codec never just --model."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    suffixes = (".py", ".cc", ".h", ".md", ".yml", ".yaml", ".grc", ".toml", ".txt")
    for path in (ROOT / name for name in listed if name.endswith(suffixes) or name.startswith("apps/diffjscc-")):
        if path != Path(__file__) and path.exists():
            text = path.read_text(encoding="utf-8").lower()
            for word in ("picture", "burst_format", "burstformat", "--model "):
                assert word not in text, f"{path} says {word!r}"


def test_every_block_has_its_grc_file_and_is_installed():
    blocks = {p.stem for p in (ROOT / "python" / "diffjscc").glob("*.py") if f"class {p.stem}(gr." in p.read_text()}
    assert blocks >= {"jscc_source", "jscc_sink", "jscc_encoder", "jscc_decoder", "image_file_sink"}
    # Every form that is there is installed.
    assert "*.block.yml" in (ROOT / "grc" / "CMakeLists.txt").read_text()
    cmake = (ROOT / "python" / "diffjscc" / "CMakeLists.txt").read_text()
    for block in blocks:
        text = (ROOT / "grc" / f"diffjscc_{block}.block.yml").read_text()
        assert "category: '[DiffJSCC]/" in text
    for path in (ROOT / "python" / "diffjscc").glob("*.py"):
        assert path.name in cmake
    headers = {p.stem for p in (ROOT / "include" / "gnuradio" / "diffjscc").glob("*.h")} - {"api"}
    assert headers >= {"burst_detector", "burst_demodulator"}
    for header in headers:
        assert (ROOT / "grc" / f"diffjscc_{header}.block.yml").is_file()
