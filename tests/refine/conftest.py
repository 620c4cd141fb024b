# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of importing share."""

import copy
import os

import pytest
import torch
from refine.tiny import Authors


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's models in a folder of the test, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "diffjscc" / "models"


@pytest.fixture(scope="session")
def whole_authors():
    """The authors' small checkpoint, with a text encoder; not to be changed."""
    authors = Authors()
    authors.add_text_encoder()
    return authors


@pytest.fixture
def authors(whole_authors):
    """The same, to be changed: its tables are copies, the tensors in them are not."""
    authors = copy.copy(whole_authors)
    authors.tensors, authors.config = dict(authors.tensors), copy.deepcopy(authors.config)
    return authors


@pytest.fixture(scope="session")
def whole_checkpoint(whole_authors, tmp_path_factory):
    return whole_authors.write(tmp_path_factory.mktemp("authors") / "whole")


@pytest.fixture
def checkpoint(whole_checkpoint, tmp_path):
    """config.yaml and model.ckpt in a folder of the test, "tiny"; both are to be replaced, not written into."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in whole_checkpoint.iterdir():
        os.link(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """Networks as small as those of `tiny` take longer on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
