# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio: its interpreter, these blocks in it, and the companion's list of blocks."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from . import programs
from .finding import Finding, absent, good, wrong

#: The interpreter of gnuradio-companion where it cannot be read from the program itself.
USUAL_PYTHON = "/usr/bin/python3"

#: What an interpreter with these blocks prints: versions, and where the blocks are.
ASK_GNURADIO = "import json, numpy; from gnuradio import gr; print(json.dumps([gr.version(), numpy.__version__]))"
ASK_BLOCKS = (
    "import json; from importlib.metadata import version; from gnuradio import diffjscc; import diffjscc as package;"
    "print(json.dumps([diffjscc.__file__, version('gr-diffjscc'), package.__file__, package.__version__]))"
)

#: Module of the blocks that sends an image from one to another, and prints how many arrived.
SELF_TEST = "gnuradio.diffjscc.self_test"

#: Where the companion looks for blocks, by its own configuration.
ASK_COMPANION = (
    "import json; from gnuradio import gr; p = gr.prefs();"
    "print(json.dumps([p.get_string('grc', key, '') for key in ('local_blocks_path', 'global_blocks_path', 'xterm_executable')]))"
)

#: What the companion's description of one of these blocks is called, and the one that every version has.
DESCRIPTIONS, A_BLOCK = "diffjscc_*.block.yml", "diffjscc_jscc_source.block.yml"

INSTALL_BLOCKS = "in gr-diffjscc: sudo make install (or, without installing, make grc)"


def check_gnuradio() -> Iterator[Finding]:
    companion = programs.find("gnuradio-companion")
    python = companion_python(companion)
    asked = programs.run([python, "-c", ASK_GNURADIO])
    if asked.fault:
        yield absent(f"GNU Radio cannot be imported by {python}: {asked.fault}", "sudo apt-get install gnuradio")
        return
    version, numpy = json.loads(asked.output.splitlines()[-1])
    yield good(f"GNU Radio {version} under {python}, NumPy {numpy}")
    yield from check_blocks(python)
    if companion is None:
        yield absent("gnuradio-companion is not installed", "sudo apt-get install gnuradio")
        return
    yield from check_companion(companion, python)


def check_blocks(python: str) -> Iterator[Finding]:
    """Whether an interpreter has the blocks and they work, those of a checkout included."""
    asked = programs.run([python, "-c", ASK_BLOCKS], time_limit=60)
    variables: dict[str, str] = {}
    if asked.fault and (built := built_blocks()):
        # Not installed: the flowgraphs of `make demo` and `make grc` find them by $PYTHONPATH.
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, (str(built), os.environ.get("PYTHONPATH"))))}
        again = programs.run([python, "-c", ASK_BLOCKS], 60, variables)
        if not again.fault:
            asked = again
            yield absent(f"the blocks are built in {built}, and not installed", "sudo make install; make grc works without")
    if asked.fault:
        yield wrong(f"{python} cannot import these blocks: {asked.fault}", INSTALL_BLOCKS)
        return
    blocks, blocks_version, package, package_version = json.loads(asked.output.splitlines()[-1])
    if blocks_version != package_version:
        yield wrong(f"blocks {blocks_version} in {blocks} and package {package_version} in {package} do not fit", INSTALL_BLOCKS)
        return
    sent = programs.run([python, "-m", SELF_TEST], 120, variables)
    if sent.fault or sent.output.split()[-1:] != ["1"]:
        yield wrong(
            f"the blocks in {Path(blocks).parent} do not send an image: {sent.fault or 'it did not arrive'}", INSTALL_BLOCKS
        )
    else:
        yield good(f"blocks in {Path(blocks).parent} send and receive an image, with the package in {Path(package).parent}")


def built_blocks() -> Path | None:
    """The folder of a checkout in which `make` builds the blocks, where this package is in a checkout; else None."""
    folder = Path(__file__).resolve().parents[3] / "build" / "test_modules"
    return folder if (folder / "gnuradio" / "diffjscc").is_dir() else None


def companion_python(companion: str | None) -> str:
    """The interpreter that runs gnuradio-companion, and so the flowgraphs that it starts."""
    try:
        with open(companion or "", "rb") as file:
            first = file.readline(512).decode(errors="replace").strip()
    except OSError:
        return USUAL_PYTHON
    words = shlex.split(first[2:]) if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    return (words and programs.find(words[0])) or USUAL_PYTHON


def check_companion(companion: str, python: str) -> Iterator[Finding]:
    """What the companion, run by this interpreter, has: descriptions of the blocks, and a terminal."""
    asked = programs.run([python, "-c", ASK_COMPANION])
    local, given, terminal = json.loads(asked.output.splitlines()[-1]) if not asked.fault else ("", "", "")
    paths = [os.environ.get("GRC_BLOCKS_PATH", ""), local, given, "~/.grc_gnuradio"]
    paths += [str(Path(companion).parents[1] / "share" / "gnuradio" / "grc" / "blocks")]
    folders = [Path(folder).expanduser() for path in paths for folder in path.split(":") if folder]
    found = [folder for folder in dict.fromkeys(folders) if (folder / A_BLOCK).is_file()]
    if found:
        yield good(f"gnuradio-companion has {len(list(found[0].glob(DESCRIPTIONS)))} of these blocks, from {found[0]}")
    elif built_blocks():
        yield absent("gnuradio-companion has these blocks only by make grc", INSTALL_BLOCKS)
    else:
        yield wrong("gnuradio-companion does not have these blocks", INSTALL_BLOCKS)
    if len(found) > 1:
        others = ", ".join(map(str, found[1:]))
        yield wrong(f"the blocks are there more than once: also in {others}", f"remove those that are old, for instance {found[1]}")
    yield _check_terminal(terminal)


def _check_terminal(configured: str) -> Finding:
    """A terminal is where the companion runs flowgraphs that have no window."""
    terminal = configured or "x-terminal-emulator"
    if programs.find(terminal) or programs.find("xterm"):
        return good("a terminal for flowgraphs without a window")
    return absent(f"no terminal ('{terminal}'): the companion cannot run flowgraphs without a window", "sudo apt-get install xterm")
