# SPDX-License-Identifier: GPL-3.0-or-later
"""Every test of training computes on one thread: networks this small gain nothing from two, which wait for each other."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
