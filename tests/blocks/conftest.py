# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of blocks with a window need."""

import os

import pytest
from PyQt5.QtWidgets import QApplication


@pytest.fixture(scope="session")
def application():
    """The process's one QApplication, without a screen."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    return QApplication.instance() or QApplication([])
