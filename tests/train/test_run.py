# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's folder: killed, stopped, out of room, damaged or mistaken, it ends in one clear line and loses nothing."""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL, small_codec, stop_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train.small import QUICK, codec_recipe, weights

from diffjscc.cli import main
from diffjscc.hub import load_codec, save_codec
from diffjscc.images import read_image, write_image
from diffjscc.train.codec import CodecTrainer
from diffjscc.train.recipes import as_yaml


class Killed(BaseException):
    """As if the process had been killed here: nothing catches it."""


@pytest.fixture
def recipe_file(tmp_path):
    """A recipe file for a small codec."""
    path = tmp_path / "small.yaml"
    path.write_text(as_yaml(codec_recipe()))
    return path


def train(recipe_file, data, out, *changes):
    return main(["train", str(recipe_file), "--data", str(data), "--out", str(out), *map(str, changes)])


def one_line(capsys):
    """What was said on standard error below the progress bar, which must be one line."""
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("diffjscc: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_killed_command_goes_on_where_it_was(recipe_file, images, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "diffjscc.cli",
        "train",
        recipe_file,
        "--data",
        images,
        "--out",
        run,
        "--checkpoint-seconds=0.2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "steps=100000"], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    reached = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert reached > 0
    done = subprocess.run([*command, f"steps={reached + 5}"], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "model written to" in done.stdout and f"{reached + 5}/{reached + 5}" in done.stderr
    assert "1/128@1dB" in done.stderr
    assert load_codec(run / "model").architecture == "lite"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_command_writes_its_last_step_and_says_that_it_is_not_done(number, recipe_file, images, tmp_path, capsys):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    killer = threading.Thread(target=lambda: (wait_for(tmp_path / "run" / "recipe.json"), os.kill(os.getpid(), number)))
    killer.start()
    try:
        assert train(recipe_file, images, tmp_path / "run", "steps=100000") == 128 + number
    finally:
        killer.join()
        for n, handler in before.items():
            signal.signal(n, handler)
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped at step {step} of 100000, model written to {tmp_path / 'run' / 'model'}" in capsys.readouterr().out
    assert load_codec(tmp_path / "run" / "model") is not None
    again = CodecTrainer(codec_recipe(steps=100000), [images], tmp_path / "run")
    assert again.step == step


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["export", "checkpoint"])
def test_a_kill_while_the_end_is_written_claims_nothing_and_is_made_good(where, recipe_file, images, tmp_path, capsys, monkeypatch):
    """Between the last checkpoint and the model, and while that checkpoint was written."""
    with monkeypatch.context() as patch:

        def kill(*arguments):
            raise Killed

        if where == "export":
            patch.setattr(CodecTrainer, "export", kill)
        else:
            patch.setattr("os.fsync", kill)
        with pytest.raises(Killed):
            train(recipe_file, images, tmp_path / "run")
    assert "model written" not in capsys.readouterr().out and not (tmp_path / "run" / "model").exists()
    assert train(recipe_file, images, tmp_path / "run") == 0
    assert "model written to" in capsys.readouterr().out
    assert train(recipe_file, images, tmp_path / "whole") == 0
    whole, killed = (weights(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(killed[name], value) for name, value in whole.items())


def test_a_complete_run_whose_model_was_removed_writes_it_again(recipe_file, images, tmp_path):
    assert train(recipe_file, images, tmp_path / "run") == 0
    first = weights(tmp_path / "run")
    subprocess.run(["rm", "-r", tmp_path / "run" / "model", tmp_path / "run" / "recipe.json"], check=True)
    (tmp_path / "run" / "recipe.json").write_text('{"kind": ')
    # A recipe.json that is missing or damaged loses nothing: the checkpoint says the same.
    assert train(recipe_file, images, tmp_path / "run") == 0
    again = weights(tmp_path / "run")
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == QUICK["steps"]


def test_checkpoints_are_written_in_time_and_measured_seldom(images, tmp_path):
    trainer = CodecTrainer(codec_recipe(steps=60), [images], tmp_path, checkpoint_seconds=0.05)
    steps, measured = [], []
    save, validate = trainer.folder.save, trainer.validate
    trainer.folder.save = lambda state: (steps.append(state["step"]), save(state))
    trainer.validate = lambda: measured.append(trainer.step) or validate()
    trainer.run()
    assert len(steps) > 3 and steps[-1] == 60 and len(measured) < len(steps) and measured[-1] == 60


def test_a_run_with_other_settings_or_images_is_refused_and_more_steps_are_not(recipe_file, images, tmp_path, capsys):
    assert train(recipe_file, images, tmp_path / "run") == 0
    capsys.readouterr()
    for changes, words in ((["lr=0.0001"], "another lr"), (["channel.clip_db=4", "batch=4"], "another batch, channel.clip_db")):
        assert train(recipe_file, images, tmp_path / "run", *changes) == 2
        expected = f"diffjscc: {tmp_path / 'run'} holds a run with {words}: give the same recipe, or another --out"
        assert one_line(capsys) == expected
    (tmp_path / "other").mkdir()
    for name in ("astronaut", "coffee"):
        (tmp_path / "other" / f"{name}.png").symlink_to(images / f"{name}.png")
    assert train(recipe_file, tmp_path / "other", tmp_path / "run") == 2
    assert "holds a run on other images (3 of them, here are 2): give the same --data, or another --out" in one_line(capsys)
    assert train(recipe_file, images, tmp_path / "run", f"steps={QUICK['steps'] + 2}", "accumulate=2") == 0
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == QUICK["steps"] + 2


@pytest.mark.parametrize("content", ["cut short", "empty", "text", "another dictionary", "without a part"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(content, recipe_file, images, tmp_path, capsys):
    assert train(recipe_file, images, tmp_path / "run", "steps=1") == 0
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    if content == "cut short":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    elif content == "empty":
        checkpoint.write_bytes(b"")
    elif content == "text":
        checkpoint.write_text("no checkpoint")
    elif content == "another dictionary":
        torch.save({"weights": torch.zeros(3)}, checkpoint)
    else:
        state = torch.load(checkpoint, weights_only=True)
        del state["average"]
        torch.save(state, checkpoint)
    before = checkpoint.read_bytes()
    capsys.readouterr()
    assert train(recipe_file, images, tmp_path / "run", "steps=1") == 2
    line = one_line(capsys)
    assert f"{checkpoint}: " in line and "remove it to begin anew, or name" in line
    assert checkpoint.read_bytes() == before and (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_two_trainings_do_not_write_into_one_folder(recipe_file, images, tmp_path, capsys):
    first = CodecTrainer(codec_recipe(steps=2), [images], tmp_path / "run")
    refused = []
    first.run(lambda progress: refused.append(train(recipe_file, images, tmp_path / "run", "steps=2")))
    assert refused == [2, 2] and capsys.readouterr().err.count("another training writes there") == 2


def test_a_full_disk_ends_it_in_one_line_and_keeps_what_was_there(recipe_file, images, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(recipe_file, images, run, "steps=1") == 0
    kept = {path: path.read_bytes() for path in (run / "checkpoint.pt", run / "model" / "model.safetensors")}
    # /dev/full is a disk without room; files of a model go to another name, so that their size is limited.
    (run / "checkpoint.part").symlink_to("/dev/full")
    capsys.readouterr()
    assert train(recipe_file, images, run, "steps=2") == 2
    expected = f"diffjscc: {run} cannot be written: No space left on device; the checkpoint before is kept."
    assert one_line(capsys) == f"{expected} Make room, or give another --out"
    assert not (run / "checkpoint.part").exists()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (100_000, 1_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            assert train(recipe_file, images, run, "steps=2") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "cannot be written: File too large" in one_line(capsys)
    signal.signal(signal.SIGXFSZ, handler)
    assert {path: path.read_bytes() for path in kept} == kept
    assert [path.name for path in run.iterdir() if "part" in path.name] == []
    assert train(recipe_file, images, run, "steps=2") == 0


def test_a_model_that_cannot_be_written_leaves_the_former_one(recipe_file, images, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert train(recipe_file, images, run, "steps=1") == 0
    former = (run / "model" / "model.safetensors").read_bytes()

    def no_room(self, folder):
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CodecTrainer, "export", no_room)
        capsys.readouterr()
        assert train(recipe_file, images, run, "steps=2") == 2
    assert "cannot be written: No space left on device; the checkpoint before is kept" in one_line(capsys)
    assert (run / "model" / "model.safetensors").read_bytes() == former
    # The checkpoint of step 2 is there, so that only the model is missing.
    assert train(recipe_file, images, run, "steps=2") == 0
    assert (run / "model" / "model.safetensors").read_bytes() != former


def test_a_folder_that_cannot_be_made_is_one_line(recipe_file, images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train(recipe_file, images, tmp_path / "file" / "run") == 2
    assert f"{tmp_path / 'file' / 'run'} cannot be written: Not a directory" in one_line(capsys)


#: The command with 700 MB of memory beyond what it takes when everything is imported.
SHORT_OF_MEMORY = """
import resource, sys
import diffjscc.train.codec
from diffjscc.cli import main

taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 700_000_000, -1))
sys.exit(main(sys.argv[1:]))
"""


def test_memory_exhausted_at_the_first_step_is_one_line(recipe_file, images, tmp_path):
    command = ["train", recipe_file, "--data", images, "--out", tmp_path / "run", "batch=4096", "crop=128"]
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, *command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr[-2000:]
    advice = "give accumulate=2 or more, or a smaller batch= or crop= (now 4096 and 128)"
    assert done.stderr.splitlines()[-1] == f"diffjscc: memory exhausted: {advice}"
    assert "Traceback" not in done.stderr and "model written" not in done.stdout


def test_a_loss_that_is_no_number_any_more_ends_it_and_keeps_the_checkpoint(images, tmp_path, monkeypatch):
    stop_at(CodecTrainer(codec_recipe(steps=100), [images], tmp_path), 3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = CodecTrainer(codec_recipe(steps=100), [images], tmp_path, checkpoint_seconds=1e9)
    loss = trainer.loss
    trainer.loss = lambda *arguments: loss(*arguments) * torch.nan
    with pytest.raises(ValueError, match="the loss has not been a number for a while at step 22: .* Give a smaller lr="):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    with torch.no_grad():
        next(trainer.codec.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="step 22: codec: tensor .* holds NaN"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_one_batch_without_a_finite_gradient_costs_nothing(images, tmp_path):
    trainer = CodecTrainer(codec_recipe(steps=6), [images], tmp_path)
    loss = trainer.loss
    trainer.loss = lambda *arguments: loss(*arguments) * (torch.nan if trainer.step == 2 else 1.0)
    trainer.run()
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


@pytest.mark.parametrize(
    "changes, message",
    [
        (["rates=[1/256]"], "rate 1/256 is not one that codec 'lite' has: choose from 1/128, 1/64, 1/32, 1/16"),
        (["crop=512"], "no training image has a crop of 512 pixels: use a smaller crop, or larger images"),
        (["start_from=absent"], "model 'absent' is neither a known name nor a folder with a model"),
        (["start_from={resnet}"], "start_from names a codec of another architecture: its tensor E."),
        (["start_from={wider}"], "start_from names a codec of another architecture: its tensor encoder.stem.weight is"),
        (["start_from={deeper}"], "start_from names a codec of another architecture: its tensor encoder."),
        (["architecture.widths=5"], "architecture = {'architecture': 'lite', 'widths': 5"),
        (["architecture.widths=[a, b, c]"], "architecture = {'architecture': 'lite', 'widths': ['a', 'b', 'c']"),
        (["architecture.rates=[1/3]"], "whole number of symbols per 16×16 pixels"),
        (["--device", "cuda"], "device 'cuda' is not available here"),
        (["--device", "gpu"], "device 'gpu': must be cpu or cuda"),
        (["--tracker", "notes"], "tracker 'notes'"),
        (["--tracker", "wandb"], "tracker 'wandb' is not installed: pip install wandb"),
        (["--checkpoint-seconds=0", "batch=0"], "batch = 0: must be at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_no_run(changes, message, recipe_file, images, tmp_path, capsys):
    assert not torch.cuda.is_available()
    models = {"resnet": small_codec("resnet")}
    models |= {"wider": codec_of(widths=[16, 16, 16]), "deeper": codec_of(encoder_depths=[2, 1, 1])}
    for name, codec in models.items():
        if f"{{{name}}}" in changes[0]:
            save_codec(codec, tmp_path / name)
    folders = {name: tmp_path / name for name in models}
    assert train(recipe_file, images, tmp_path / "run", *(change.format(**folders) for change in changes)) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "run" / "checkpoint.pt").exists() and not (tmp_path / "run" / "model").exists()


def codec_of(**options):
    from diffjscc.codec import build_codec

    return build_codec({**SMALL["lite"], **options})


@pytest.mark.parametrize("content, message", [
    (None, "no images and no shards in this folder"),
    ("text", "no images and no shards in this folder"),
    ("one", "training needs at least two images"),
    ("corrupt", "no held-out image can be read: "),
])  # fmt: skip
def test_data_that_is_none_is_one_line(content, message, recipe_file, images, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    if content == "text":
        (data / "notes.txt").write_text("no images")
    if content in ("one", "corrupt"):
        write_image(data / "b.png", read_image(images / "coffee.png"))
    if content == "corrupt":
        (data / "a.png").write_bytes((data / "b.png").read_bytes()[:1000])
    assert train(recipe_file, data, tmp_path / "run") == 2
    assert message in one_line(capsys) and not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_corrupt_file_is_passed_over_and_listed_even_after_a_stop(images, tmp_path):
    data = tmp_path / "data"
    for i in range(30):
        write_image(data / f"{i:02d}.png", read_image(images / "coffee.png")[:64, i : i + 64])
    (data / "07.png").write_bytes((data / "07.png").read_bytes()[:300])
    stop_at(CodecTrainer(codec_recipe(steps=40), [data], tmp_path / "run"), 38)
    CodecTrainer(codec_recipe(steps=40), [data], tmp_path / "run").run()
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert len(listed) == 1 and listed[0].startswith(f"07.png: {data / '07.png'}: damaged or cut short")
    assert "1 could not be read" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_the_model_card_tells_data_recipe_revision_time_and_figures(images, tmp_path):
    data = tmp_path / "photographs"
    data.mkdir()
    for path in images.iterdir():
        (data / path.name).symlink_to(path)
    (data / "README.md").write_text("# Three photographs\n\nPublic domain, from scikit-image.\n")
    trainer = CodecTrainer(codec_recipe(channel={"clip_db": 4.0}), [data], tmp_path / "runs" / "mine")
    card = (trainer.run() / "README.md").read_text()
    assert card.startswith("# mine\n\nTrained by gr-diffjscc 0.")
    assert "a codec, 4 of 4 steps." in card
    assert "3 images of `photographs`; every 40th, 1 in all, was held out." in card
    assert "> Public domain, from scikit-image." in card
    assert "hours of training on 1 × cpu, precision bf16" in card
    for name, value in trainer.scores.items():
        assert f"| {name} | {value:.3f} |" in card
    assert "1/128@1dB, channel" in trainer.scores
    # The recipe in the card is the run's.
    kept = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert kept == yaml.safe_load(as_yaml(trainer.recipe))


def test_tensorboard_shows_scalars_and_images(images, tmp_path):
    CodecTrainer(codec_recipe(steps=6), [images], tmp_path, tracker="tensorboard").run()
    events = EventAccumulator(str(tmp_path / "logs" / "run"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"loss", "learning rate", "1/128@1dB", "1/16@13dB"} <= set(tags["scalars"])
    assert [scalar.step for scalar in events.Scalars("1/16@13dB")] == [6]
    assert events.Scalars("loss")[0].value == pytest.approx(-4, abs=3)
    assert tags["images"] == ["original and received, 1/128 at 1 dB", "original and received, 1/16 at 13 dB"]
    image = events.Images(tags["images"][0])[0]
    # The held-out photograph of 160×224, and beside it what was received.
    assert (image.width, image.height) == (448, 160) and image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize("precision, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_networks_compute_in_the_precision_of_the_recipe(precision, dtype, images, tmp_path):
    trainer = CodecTrainer(codec_recipe(precision=precision, steps=1), [images], tmp_path)
    seen = []
    layer = next(m for m in trainer.codec.decoder.modules() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.run()
    assert set(seen) == {dtype}
    assert {p.dtype for p in trainer.codec.parameters()} == {torch.float32}


@pytest.mark.parametrize("extra", [{}, {"adversarial": 0.01}], ids=["alone", "with a critic"])
def test_accumulated_gradients_are_those_of_the_whole_batch(extra, images, tmp_path):
    for accumulate in (1, 2, 4):
        recipe = codec_recipe(batch=4, accumulate=accumulate, precision="no", **extra)
        CodecTrainer(recipe, [images], tmp_path / str(accumulate)).run()
    whole = torch.load(tmp_path / "1" / "checkpoint.pt", weights_only=True)
    for accumulate in (2, 4):
        parts = torch.load(tmp_path / str(accumulate) / "checkpoint.pt", weights_only=True)
        for name, value in whole["codec"].items():
            torch.testing.assert_close(parts["codec"][name], value, atol=2e-6, rtol=1e-4)


def test_the_package_carries_the_recipes():
    # pytest brings tomli where Python has no tomllib, before 3.11.
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

    build = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["recipes"] == "diffjscc/recipes"
    assert "recipes" in build["sdist"]["include"]
