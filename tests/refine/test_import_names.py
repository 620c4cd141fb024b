# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an import writes: under a plain name, never in the place of anything else unless asked, and all of it or nothing."""

import os
import re
import resource
import shutil

import pytest
import torch
from conftest import small_codec
from names import BAD_NAMES
from refine.tiny import flow_refiner

from diffjscc import checkpoints
from diffjscc.checkpoints import import_checkpoint, pull
from diffjscc.cli import main
from diffjscc.hub import find_model, load_codec, save_codec

pytestmark = pytest.mark.usefixtures("models")


def tree(folder):
    """Every file and link under a folder, with what it holds or leads to."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def precious(models):
    """Another model and a stranger's file in the folder of models, and a file beside it."""
    save_codec(small_codec("resnet"), models / "other")
    (models / "note.txt").write_text("kept")
    (models.parent / "precious").write_text("kept")
    return models.parent


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_a_path_or_worse_is_refused_and_nothing_is_touched(checkpoint, precious, name):
    before = tree(precious)
    for act in (lambda: import_checkpoint(checkpoint, name), lambda: import_checkpoint(checkpoint, name, replace=True)):
        with pytest.raises(ValueError, match="cannot be a model's name") as refusal:
            act()
        assert "\n" not in str(refusal.value)
    assert tree(precious) == before


def test_on_the_command_line_too(checkpoint, precious, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "unrelated").write_text("kept")
    before = tree(precious)
    for name in (str(tmp_path / "folder"), ".", "..", "../other"):
        assert main(["models", "import", str(checkpoint), "--name", name, "--replace"]) == 2
        said = capsys.readouterr().err
        assert "cannot be a model's name" in said and said.count("\n") == 1
    assert tree(precious) == before
    assert (tmp_path / "folder" / "unrelated").read_text() == "kept"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["lite", "mini", "Lite"])
def test_a_bundled_model_is_never_hidden(checkpoint, models, name, replace):
    with pytest.raises(ValueError, match="is the name of a model that comes with diffjscc"):
        import_checkpoint(checkpoint, name, replace=replace)
    assert not models.exists()


def test_a_name_taken_from_the_source_is_held_to_the_same(checkpoint, models, tmp_path, monkeypatch):
    for name in ("my model", "lite"):
        os.rename(checkpoint, checkpoint := tmp_path / name)
        with pytest.raises(ValueError, match=r"\(it is the source's: give a name\)"):
            import_checkpoint(checkpoint)
    os.rename(checkpoint, tmp_path / "good")
    monkeypatch.chdir(tmp_path / "good")
    assert import_checkpoint(".").model.name == "good"
    assert [path.name for path in models.iterdir()] == ["good"]


def test_a_name_that_another_folder_of_models_has_is_refused(checkpoint, models, tmp_path, monkeypatch):
    """The import would be written, and the other model found."""
    save_codec(small_codec("resnet"), tmp_path / "shared" / "other")
    monkeypatch.setenv("DIFFJSCC_MODELS", str(tmp_path / "shared"))
    with pytest.raises(ValueError, match=rf"'other' is the name of the model in {tmp_path}/shared/other: choose another"):
        import_checkpoint(checkpoint, "other", replace=True)
    assert not models.exists()


def test_nothing_is_replaced_unasked(checkpoint, precious, models, capsys):
    before = tree(precious)
    with pytest.raises(ValueError, match=r"other exists: choose another name, or have it replaced \(--replace\)"):
        import_checkpoint(checkpoint, "other")
    assert main(["models", "import", str(checkpoint), "--name", "other"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(precious) == before


def test_a_model_is_replaced_when_asked(checkpoint, precious, models):
    assert find_model(models / "other").codec["rate"] == "1/64"
    assert main(["models", "import", str(checkpoint), "--name", "other", "--replace"]) == 0
    assert find_model(models / "other").codec["rate"] == "1/128"
    assert load_codec("other").name == "other"
    assert sorted(path.name for path in models.iterdir()) == ["note.txt", "other"]


def test_an_import_that_fails_leaves_the_old_model(checkpoint, precious, authors, tmp_path):
    before = tree(precious)
    authors.tensors["cond_stage_model.model.ln_final.bias"] = torch.full((24,), torch.nan)
    shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="ln_final.bias does not fit float16"):
        import_checkpoint(authors.write(checkpoint), "other", replace=True)
    assert tree(precious) == before


def test_what_is_no_model_is_not_replaced_even_when_asked(checkpoint, precious, models, tmp_path):
    (models / "transformers").mkdir()
    (models / "transformers" / "config.json").write_text('{"architectures": ["Blip2"]}')
    (models / "empty").mkdir()
    (models / "link").symlink_to(models / "other")
    (models / "nowhere").symlink_to(tmp_path / "absent")
    before = tree(precious)
    for name in ("transformers", "empty", "link", "nowhere", "note.txt"):
        with pytest.raises(ValueError, match=rf"{re.escape(name)} exists and is no model, so that it is never replaced"):
            import_checkpoint(checkpoint, name, replace=True)
    assert tree(precious) == before
    assert (models / "empty").is_dir()


def test_a_link_in_the_place_of_the_unfinished_model_is_not_followed(checkpoint, models, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("kept")
    models.mkdir(parents=True)
    (models / ".tiny.part").symlink_to(tmp_path / "elsewhere")
    import_checkpoint(checkpoint)
    assert tree(tmp_path / "elsewhere") == {"precious": b"kept"}
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_pull_asks_before_it_fetches(models, capsys):
    name = checkpoints.PUBLISHED[0]
    flow_refiner().save_pretrained(models / name)
    for refused in (lambda: pull(name), lambda: pull("../" + name)):
        with pytest.raises(ValueError, match="exists: choose another name|is not a published checkpoint"):
            refused()
    # With --replace it gets as far as the hub.
    assert main(["models", "pull", name, "--replace"]) == 2
    assert "cannot be fetched from the hub" in capsys.readouterr().err
    assert find_model(models / name, "refiner").codec is None


def test_a_full_disk_is_one_line_and_leaves_the_old_model(checkpoint, precious, capsys):
    before = tree(precious)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        code = main(["models", "import", str(checkpoint), "--name", "other", "--replace"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and "other cannot be written" in said
    assert tree(precious) == before


def test_a_folder_of_models_that_cannot_be_is_one_line(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        import_checkpoint(checkpoint, "x", out=tmp_path / "file" / "models")
