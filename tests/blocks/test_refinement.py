# SPDX-License-Identifier: GPL-3.0-or-later
"""jscc_sink with a refiner: the initial image at once, the refined one when it is ready."""

import threading

import numpy as np
import pytest
import torch
from blocks.flowgraphs import MessageSink
from gnuradio import diffjscc, gr
from refine.tiny import flow_refiner

from diffjscc.images import read_image


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    """A folder with a small untrained refiner."""
    folder = tmp_path_factory.mktemp("refiners") / "tiny"
    flow_refiner().save_pretrained(folder)
    return str(folder)


def run(images, sink):
    """A folder through a clean channel: the published (initial images, refined images)."""
    source = diffjscc.jscc_source(str(images), rate="1/64", snr_db=7.0)
    ports = {"images": MessageSink(), "refined": MessageSink()}
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    for port, messages in ports.items():
        flowgraph.msg_connect((sink, port), (messages, "in"))
    flowgraph.run()
    return ports["images"].images(), ports["refined"].images()


def test_every_image_comes_twice_and_both_are_written(images, refiner, tmp_path):
    sink = diffjscc.jscc_sink(folder=str(tmp_path), queue_size=1, refinement=diffjscc.LocalRefinement(refiner))
    initial, refined = run(images, sink)
    assert [metadata["image_id"] for _, metadata in initial] == [0, 1, 2]
    assert [metadata["image_id"] for _, metadata in refined] == [0, 1, 2]
    assert {metadata["stage"] for _, metadata in initial} == {"initial"}
    assert {metadata["stage"] for _, metadata in refined} == {"refined"}
    assert sink.counters()["refined"] == 3 and sink.counters()["unrefined"] == 0
    for (before, metadata), (after, _) in zip(initial, refined):
        assert before.shape == after.shape and not np.array_equal(before, after)
        assert np.array_equal(read_image(tmp_path / f"{metadata['image_id']:06d}.png"), before)
        assert np.array_equal(read_image(tmp_path / f"{metadata['image_id']:06d}_refined.png"), after)


def test_the_same_image_is_refined_the_same_way_again(images, refiner):
    first, second = (run(images, diffjscc.jscc_sink(refinement=diffjscc.LocalRefinement(refiner), snr_db=7.0))[1] for _ in range(2))
    for (a, _), (b, _) in zip(first, second):
        assert np.array_equal(a, b)


def test_a_refiner_that_fails_costs_no_initial_image(images, refiner, monkeypatch):
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("no such device")

    monkeypatch.setattr("diffjscc.hub.load_refiner", fail)
    sink = diffjscc.jscc_sink(refinement=diffjscc.LocalRefinement(refiner))
    initial, refined = run(images, sink)
    assert len(initial) == 3 and refined == []
    assert sink.counters()["unrefined"] == 3 and len(calls) == 3


def test_an_image_for_which_there_is_no_room_in_time_is_counted(refiner):
    warned = []
    refinement = diffjscc.LocalRefinement(refiner, queue_size=1)
    refinement.attach(None, warned.append, 4, "wait")
    # Its thread was never started, so that the first image stays in the queue.
    for image_id in range(2):
        refinement.submit(np.zeros((32, 32, 3), np.uint8), {"image_id": image_id}, timeout=0.01)
    assert refinement.counters() == {"refined": 0, "unrefined": 1}
    assert refinement.reasons() == {"unrefined": {"queue full": 1}}
    assert len(warned) == 1 and "image 1 not refined" in warned[0]


def test_a_single_step_is_interrupted_between_layers(refiner):
    """One step on a large image takes seconds, for which a process that ends need not wait."""
    refined, held, reached, released = [], [], threading.Event(), threading.Event()
    refinement = diffjscc.LocalRefinement(refiner)
    refinement.attach(lambda pixels, metadata: refined.append(metadata["image_id"]), print, 4, "drop")
    refinement.start()
    refinement.submit(np.zeros((32, 32, 3), np.uint8), {"image_id": 0, "snr_db": 1.0}, 0.0)
    assert refinement.wait_idle(30)
    layers = [layer for layer in refinement._refiner.unet.modules() if isinstance(layer, torch.nn.Conv2d)]

    def hold(*_):
        reached.set()
        assert released.wait(30)

    layers[0].register_forward_hook(hold)
    layers[-1].register_forward_hook(lambda *_: held.append("last layer"))
    refinement.submit(np.zeros((32, 32, 3), np.uint8), {"image_id": 1, "snr_db": 1.0}, 0.0)
    assert reached.wait(30)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "diffjscc-worker"]
    refinement.stop(0.0)
    assert refinement.counters() == {"refined": 1, "unrefined": 1}
    released.set()
    thread.join(30)
    assert refined == [0] and held == [] and not thread.is_alive()


def test_without_refinement_nothing_is_refined(images):
    sink = diffjscc.jscc_sink()
    initial, refined = run(images, sink)
    assert len(initial) == 3 and refined == []
    assert "refined" not in sink.counters()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: diffjscc.LocalRefinement("absent"), "neither a known name"),
        (lambda: diffjscc.LocalRefinement("lite"), "has no refiner"),
        (lambda: diffjscc.LocalRefinement(queue_size=0), "queue_size = 0: must be a whole number"),
        (lambda: diffjscc.LocalRefinement(on_full="panic"), "on_full = 'panic': must be one of wait, drop"),
        (lambda: diffjscc.jscc_sink(refinement="local"), "refinement = 'local': must be None, or an object"),
        (lambda: diffjscc.jscc_rx(refinement=diffjscc.LocalRefinement), "must be None, or an object"),
    ],
)
def test_wrong_refiners_are_refused_when_the_flowgraph_is_built(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_a_refinement_object_belongs_to_one_block():
    refinement = diffjscc.LocalRefinement()
    diffjscc.jscc_sink(refinement=refinement)
    with pytest.raises(ValueError, match="belongs to another block"):
        diffjscc.jscc_sink(refinement=refinement)
