# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread behind a block: what becomes of each item, and when it ends."""

import collections
import subprocess
import sys
import threading
import time

import pytest
from blocks.flowgraphs import wait_until
from gnuradio.diffjscc.worker import Worker


class Outcomes:
    """What a worker told of its items."""

    def __init__(self):
        self.done, self.failed, self.dropped = [], [], []

    def worker(self, handle, **options):
        return Worker(
            handle,
            lambda item, result: self.done.append((item, result)),
            lambda item, error: self.failed.append((item, str(error))),
            lambda item, reason: self.dropped.append((item, reason)),
            **options,
        )

    def items(self):
        return collections.Counter(item for item, _ in self.done + self.failed + self.dropped)


def test_an_item_that_fails_does_not_end_the_worker():
    def handle(item):
        if item == 1:
            raise RuntimeError("one")
        return -item

    outcomes = Outcomes()
    worker = outcomes.worker(handle, size=8)
    worker.start()
    for item in range(4):
        assert worker.submit(item)
    assert worker.stop(5.0)
    assert outcomes.done == [(0, 0), (2, -2), (3, -3)] and outcomes.failed == [(1, "one")] and outcomes.dropped == []


def test_what_follows_an_item_may_fail_and_the_next_is_worked_on(caplog):
    done = []

    def fail_first(item, result):
        done.append(item)
        if item == 0:
            raise RuntimeError("after the first")

    worker = Worker(lambda item: None, fail_first, None, None)
    worker.start()
    assert worker.submit(0) and worker.submit(1)
    assert worker.stop(5.0)
    assert done == [0, 1] and "after the first" in caplog.text


def test_a_full_queue_refuses_until_there_is_room():
    release, outcomes = threading.Event(), Outcomes()
    worker = outcomes.worker(lambda item: release.wait(30), size=1)
    worker.start()
    assert worker.submit(0)
    wait_until(lambda: worker.submit(1))
    start = time.monotonic()
    assert not worker.submit(2, timeout=0.2)
    assert time.monotonic() - start >= 0.19
    assert worker.unfinished == 2 and not worker.wait_idle(0.05)
    release.set()
    assert worker.submit(2, timeout=5.0)
    assert worker.stop(5.0)
    assert outcomes.items() == {0: 1, 1: 1, 2: 1} and not outcomes.dropped


def test_a_full_queue_that_drops_gives_the_oldest_up():
    release, outcomes = threading.Event(), Outcomes()
    worker = outcomes.worker(lambda item: release.wait(30), size=1, on_full="drop")
    worker.start()
    assert worker.submit(0)
    wait_until(lambda: not worker._items)
    assert worker.submit(1) and worker.submit(2)
    release.set()
    assert worker.stop(5.0)
    assert [item for item, _ in outcomes.done] == [0, 2] and outcomes.dropped == [(1, "queue full")]


def test_stopping_accounts_for_each_item_once_and_does_not_wait_for_the_one_that_runs():
    """Also where the worker is started again while the old thread still computes."""
    started, release, outcomes = threading.Event(), threading.Event(), Outcomes()

    def handle(item):
        if item == 0:
            started.set()
            release.wait(30)
            assert worker.interrupted
        return item

    worker = outcomes.worker(handle)
    worker.start()
    for item in range(3):
        assert worker.submit(item)
    assert started.wait(5)
    start = time.monotonic()
    assert not worker.stop(0.1)
    assert time.monotonic() - start < 0.5
    assert outcomes.dropped == [(0, "stopped"), (1, "stopped"), (2, "stopped")]
    assert not worker.submit(3)
    worker.start()
    assert worker.submit(4)
    wait_until(lambda: outcomes.done)
    release.set()
    assert worker.stop(5.0)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "diffjscc-worker"])
    assert outcomes.items() == {0: 1, 1: 1, 2: 1, 4: 1} and outcomes.done == [(4, 4)] and not outcomes.failed


@pytest.mark.parametrize(
    ("options", "line"), [({"size": 0}, "queue size 0"), ({"size": 1.5}, "queue size 1.5"), ({"on_full": "x"}, "'x' is not one of")]
)
def test_wrong_queues_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        Outcomes().worker(None, **options)


def test_a_process_that_ends_while_a_worker_computes_is_not_aborted():
    """torch ends the process with SIGABRT when a daemon thread computes while the interpreter is taken down."""
    code = """
import threading, torch
from gnuradio.diffjscc.worker import Worker
layer, image, started = torch.nn.Conv2d(64, 64, 3), torch.rand(1, 64, 400, 400), threading.Event()
def handle(item):
    while not worker.interrupted:
        started.set()
        layer(image)
worker = Worker(handle, None, None, lambda item, reason: print(item, reason))
worker.start()
worker.submit("image")
assert started.wait(30)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "image stopped\n"), done.stderr
