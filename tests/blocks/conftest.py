# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of blocks with a window need."""

import gc
import os
from pathlib import Path

import pytest
from gnuradio import gr
from gnuradio.grc.core.platform import Platform
from PyQt5.QtWidgets import QApplication


@pytest.fixture(scope="module", autouse=True)
def buffers_are_given_back():
    """A flowgraph's buffers are shared memory, of which the system has 4096 pieces for all processes, and blocks are freed by the
    garbage collector alone."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def application():
    """The process's one QApplication, without a screen."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    return QApplication.instance() or QApplication([])


@pytest.fixture(scope="session")
def platform():
    """The companion's own library, with these blocks."""
    parts = gr.major_version(), gr.api_version(), gr.minor_version()
    made = Platform(version=gr.version(), version_parts=parts, prefs=gr.prefs())
    made.build_library([*made.config.block_paths, str(Path(__file__).parents[2] / "grc")])
    return made
