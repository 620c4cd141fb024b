# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the Python package `diffjscc` is, for interpreters that do not have it installed.

gnuradio-companion runs flowgraphs with its own interpreter, /usr/bin/python3 as a rule, while the package and torch live in
a virtual environment. So the build writes the path of that environment to ``environment.txt`` beside this file, and an
interpreter without the package looks for it there. Other programs of the same interpreter do not see the environment. A second
line of the file says what to type where the environment is missing.
"""

import importlib
import importlib.util
import site
import sys
import sysconfig
from pathlib import Path

#: Written by CMake; empty where a distribution installs the package beside the blocks.
RECORD = Path(__file__).with_name("environment.txt")


def find_package(record=RECORD):
    """Makes `import diffjscc` work. Raises ImportError, one line, where neither the interpreter nor the environment has it.

    record   text file: the path of a virtual environment of the interpreter's own version, and the command that makes it
    """
    if _is_there():
        return
    lines = record.read_text().splitlines() if record.is_file() else []
    environment, command = (line.strip() for line in (*lines, "", "")[:2])
    if environment:
        _add_packages(_site_packages(environment))
        if _is_there():
            return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    looked = f", nor does the Python {version} environment {environment}" if environment else ""
    by_hand = f"run `sudo make install` in gr-diffjscc, or `{sys.executable} -m pip install .` there"
    remedy = f"run `{command}`" if command else by_hand
    raise ImportError(f"{sys.executable} does not have the Python package diffjscc{looked}: {remedy}")


def _is_there():
    """Whether `import diffjscc` finds the package, and not merely a folder of that name, such as a clone of the repository."""
    spec = importlib.util.find_spec("diffjscc")
    return spec is not None and spec.origin is not None


def _site_packages(environment):
    """Where this version of Python keeps the packages of a virtual environment."""
    paths = {"base": environment, "platbase": environment}
    return sysconfig.get_path("purelib", "posix_prefix", paths)


def _add_packages(folder):
    """Adds a folder of packages, and those that its .pth files name, in front: they fit each other, the system's may be older."""
    before = list(sys.path)
    site.addsitedir(folder)
    sys.path[:] = [path for path in sys.path if path not in before] + before
    importlib.invalidate_caches()
