# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled refiner behind the service: the same images as in this process."""

import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import photograph
from serve.processes import ServerProcess

from diffjscc.hub import find_model, load_refiner
from diffjscc.images import to_pixels
from diffjscc.serve import RefineClient, RefineError
from diffjscc.serve.backend import Batch, Item, Stopped
from diffjscc.serve.engine import Engine


@pytest.fixture(scope="module")
def engine():
    engine = Engine(["mini"])
    engine.prepare()
    return engine


def batch(*seeds, **fields):
    pixels = to_pixels(photograph(64, 96))
    fields = {"refiner": "mini", "steps": None, "sampler": None, "items": tuple(Item(pixels, 1.0, s, None) for s in seeds)} | fields
    return Batch(1, **fields)


def refined_here(pixels, snr_db, seed):
    (image,) = load_refiner("mini")(pixels, snr_db, generator=torch.Generator().manual_seed(seed)).images
    return np.asarray(image)


def test_the_command_serves_what_the_pipeline_computes_and_stops_on_sigterm():
    command = (sys.executable, "-m", "diffjscc.cli", "serve", "--threads", "2")
    pixels = to_pixels(photograph(64, 96))
    with ServerProcess("--bind", "tcp://127.0.0.1:*", "--status", "127.0.0.1:0", command=command) as server:
        with RefineClient(server.address) as client:
            told = []
            refined = client.refine(pixels, 1.0, seed=3, on_progress=lambda *step: told.append(step))
            assert told == [(1, 1, None)]
            assert np.abs(refined.astype(int) - refined_here(pixels, 1.0, 3)).max() <= 2
            assert np.array_equal(client.refine(pixels, 1.0, seed=3), refined)
            with pytest.raises(RefineError, match="a flow trained for 1") as caught:
                client.refine(pixels, 1.0, steps=7)
            assert caught.value.code == "failed" and not caught.value.retryable
        assert server.terminate() == 0


@pytest.fixture
def one_thread():
    """Torch's threads: their number decides how bfloat16 is summed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_image_is_the_same_alone_and_in_a_batch(engine, one_thread):
    alone = [engine.run(batch(seed), lambda *step: None)[0] for seed in (1, 2)]
    torch.set_num_threads(2)
    # The third gets both threads, the first two have one each.
    together = engine.run(batch(1, 2, 3), lambda *step: None)
    assert all(np.abs(image.astype(int) - other).max() <= 2 for image, other in zip(together, alone))
    assert not np.array_equal(together[0], together[1])


def test_a_batch_that_nobody_waits_for_stops_at_its_next_step(engine):
    def stop(*step):
        raise Stopped

    for seeds in ((1,), (1, 2, 3)):
        with pytest.raises(Stopped):
            engine.run(batch(*seeds), stop)


def test_a_preview_has_the_size_of_the_image(engine, monkeypatch):
    monkeypatch.setattr("diffjscc.serve.engine.PREVIEW_SECONDS", 0.0)
    seen = []
    refiner = engine._refiner("mini")
    monkeypatch.setitem(refiner.control.config.defaults, "num_inference_steps", 3)

    def on_step(step, steps, previews, items):
        if items == (1,):
            seen.append((step, {index: preview.shape for index, preview in previews.items()}))

    engine.run(batch(1, 2, previews=(1,)), on_step)
    assert seen == [(1, {1: (64, 96, 3)}), (2, {1: (64, 96, 3)}), (3, {})]


def test_models_that_do_not_fit_together_take_turns(tmp_path):
    folders = [tmp_path / f"{name}-refiner" for name in ("one", "two", "three")]
    for folder in folders:
        shutil.copytree(find_model("mini", "refiner").path, folder)
    engine = Engine(folders, memory=0)
    assert engine.refiners == ("one-refiner", "two-refiner", "three-refiner")
    with pytest.raises(ValueError, match="MB of memory, the budget is 0 MB: raise it"):
        engine.prepare()
    one = engine._expected("one-refiner")
    engine = Engine(folders, memory=2.5 * one)
    engine.prepare()
    for name, loaded in (("two", ["one", "two"]), ("one", ["two", "one"]), ("three", ["one", "three"]), ("one", ["three", "one"])):
        engine.run(batch(1, refiner=f"{name}-refiner"), lambda *step: None)
        assert list(engine._loaded) == [f"{other}-refiner" for other in loaded]
        assert engine._used() <= 2.5 * one


def test_only_named_models_exist():
    with pytest.raises(ValueError, match="neither a known name"):
        Engine(["absent"])
    with pytest.raises(ValueError, match="name at least one"):
        Engine([])
    assert Engine(["mini", "mini"]).refiners == ("mini",)
