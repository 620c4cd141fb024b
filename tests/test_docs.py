# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation site's own code, and pages that are made from the code. `make docs` checks the toctree and all links."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def extension():
    """A module of docs/extensions, or of tools, by its path."""
    sys.path.insert(0, str(ROOT / "docs" / "extensions"))

    def load(path):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path.remove(str(ROOT / "docs" / "extensions"))


def test_man_pages_and_command_pages_say_what_help_says(extension):
    for path, text in extension("tools/command_pages.py").pages():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is out of date: run `make man`"


def test_every_block_has_a_page_with_its_ports_and_parameters(extension, tmp_path):
    pages = extension("docs/extensions/block_pages.py")
    pages.write_pages(ROOT / "grc", ROOT / "python" / "diffjscc", ROOT / "include" / "gnuradio" / "diffjscc", tmp_path / "blocks")
    index = (tmp_path / "blocks" / "index.md").read_text()
    for path in (ROOT / "grc").glob("*.block.yml"):
        block = yaml.safe_load(path.read_text())
        name = pages.name_of(block)
        page = (tmp_path / "blocks" / f"{name}.rst").read_text()
        assert f"({name}.rst)" in index and f"gnuradio.diffjscc.{name}(" in page
        for parameter in block.get("parameters", []):
            assert f"``{parameter['id']}``" in page, f"{name}: {parameter['id']}"


def test_pages_of_blocks_that_are_gone_are_removed_and_others_are_left_alone(extension, tmp_path):
    pages = extension("docs/extensions/block_pages.py")
    where = (ROOT / "grc", ROOT / "python" / "diffjscc", ROOT / "include" / "gnuradio" / "diffjscc", tmp_path / "blocks")
    pages.write_pages(*where)
    written = (tmp_path / "blocks" / "jscc_rx.rst").stat().st_mtime_ns
    (tmp_path / "blocks" / "old.rst").write_text("Old\n===\n")
    pages.write_pages(*where)
    assert not (tmp_path / "blocks" / "old.rst").exists()
    assert (tmp_path / "blocks" / "jscc_rx.rst").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "docstring, rst",
    [
        (["Mean |y|² = 1, a*b, x_."], [r"Mean \|y\|² = 1, a\*b, x\_.", ""]),
        (["Uses `encode`, ``x`` too."], ["Uses \\ ``encode``\\ , \\ ``x``\\  too.", ""]),
        (["A drawing:", "", "    a ─► b"], ["A drawing:", "", "::", "", "        a ─► b", ""]),
        (
            ["rate    channel uses", "snr_db  of the", "        channel"],
            ["``rate``", "    channel uses", "", "``snr_db``", r"    of the channel", "", ""],
        ),
        (["Example:", "    f(x)"], ["Example:", "", "::", "", "        f(x)", ""]),
    ],
)
def test_plain_docstrings_become_restructured_text(extension, docstring, rst):
    assert extension("docs/extensions/plain_docstrings.py").to_rst(docstring) == rst


@pytest.mark.parametrize("page", ("diffjscc", "diffjscc-tx", "diffjscc-rx"))
def test_man_pages_are_formatted_without_a_warning(page):
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", ROOT / "docs" / "man" / f"{page}.1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and f"{page} - " in " ".join(done.stdout.split())


@pytest.mark.parametrize("page", ("README.md", "CONTRIBUTING.md", "deploy/README.md"))
def test_links_of_pages_outside_the_site_lead_somewhere(page):
    """`make docs` checks those of the site."""
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert broken == []
