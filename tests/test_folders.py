# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders appear, and are replaced, as a whole."""

import os
import signal
import subprocess
import sys

import pytest

from diffjscc import folders
from diffjscc.folders import new_folder


def write(target, text, replace=False):
    with new_folder(target, replace) as partial:
        (partial / "a").write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "models" / "x"
    with new_folder(target) as partial:
        (partial / "a").write_text("new")
        assert not target.exists()
    assert content(target) == {"a": "new"}
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_after_a_failure_the_old_folder_is_there_and_nothing_else(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x", replace=True) as partial:
        (partial / "b").write_text("half")
        raise RuntimeError
    assert content(tmp_path / "x") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_exists_is_not_replaced_unasked(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(OSError, match="not empty"):
        write(tmp_path / "x", "new")
    assert content(tmp_path / "x") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_replaced_folder_is_the_new_one(tmp_path, monkeypatch, at_once):
    if not at_once:
        # As on a file system that cannot exchange two names.
        monkeypatch.setattr(folders, "_exchange_at_once", lambda *_: False)
    write(tmp_path / "x", "old")
    (tmp_path / "x" / "b").write_text("old")
    write(tmp_path / "x", "new", replace=True)
    assert content(tmp_path / "x") == {"a": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_while_it_is_replaced_the_folder_is_never_missing(tmp_path):
    """Python reports each renaming before it happens; at none of them may the folder be away."""
    write(tmp_path / "x", "old")
    code = f"""
import os, sys
from pathlib import Path
from diffjscc.folders import new_folder
target, missing = Path({str(tmp_path / "x")!r}), []
sys.addaudithook(lambda event, _: missing.append(event) if event != "object.__getattr__" and not os.path.lexists(target) else None)
with new_folder(target, True) as partial:
    (partial / "a").write_text("new")
sys.exit(", ".join(missing) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert content(tmp_path / "x") == {"a": "new"}


def test_a_process_that_is_killed_leaves_the_old_folder_and_the_next_one_clears_up(tmp_path):
    write(tmp_path / "x", "old")
    code = f"""
import os, signal
from pathlib import Path
from diffjscc.folders import new_folder
with new_folder(Path({str(tmp_path / "x")!r}), True) as partial:
    (partial / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert content(tmp_path / "x") == {"a": "old"}
    write(tmp_path / "x", "new", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_crash_between_the_two_steps_of_an_exchange_is_undone(tmp_path):
    """Where a file system cannot exchange names, the old folder is moved aside first."""
    write(tmp_path / "x", "old")
    os.rename(tmp_path / "x", tmp_path / ".x.old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x", replace=True):
        raise RuntimeError
    assert content(tmp_path / "x") == {"a": "old"}


def test_leftovers_that_are_links_lose_the_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("kept")
    for kind in ("part", "old"):
        (tmp_path / f".x.{kind}").symlink_to(tmp_path / "elsewhere")
    # The link .x.old would be taken for a folder that a crash moved aside.
    write(tmp_path / "x", "new", replace=True)
    assert content(tmp_path / "elsewhere") == {"precious": "kept"}
    assert content(tmp_path / "x") == {"a": "new"}


def test_only_one_at_a_time_fills_folders_in_a_place(tmp_path):
    with new_folder(tmp_path / "x") as partial:
        (partial / "a").write_text("first")
        with pytest.raises(ValueError, match="another process is writing"), new_folder(tmp_path / "y"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
