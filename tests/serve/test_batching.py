# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests are computed together, and which are remembered: without sockets, and with a clock of our own."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjscc.serve.batching import BATCH_PIXELS, QUEUE_BYTES, Batcher, Task
from diffjscc.serve.deduplication import DeduplicationCache
from diffjscc.serve.protocol import Request

PIXELS = np.zeros((16, 16, 3), np.uint8)


def task(key, now=0.0, deadline=60.0, width=16, height=16, **fields):
    request = Request(id=str(key), refiner="mini", width=width, height=height, encoding="png", image=b"x")
    request = Request(**vars(request) | fields)
    return Task(key, b"digest", request, b"peer", now, now + deadline)


def queued(batcher, key, now=0.0, **fields):
    assert batcher.admit(task(key, now, **fields))
    batcher.decoded(key, PIXELS, now)


def keys(tasks):
    return [task.key for task in tasks]


def test_tasks_of_one_kind_go_together_and_the_oldest_kind_first():
    batcher = Batcher(max_batch=3)
    for key, steps in enumerate([4, 9, 4, 9, 4, 4]):
        queued(batcher, key, steps=steps)
    assert keys(batcher.take_batch(1.0)) == [0, 2, 4]
    assert keys(batcher.take_batch(1.0)) == [1, 3]
    assert keys(batcher.take_batch(1.0)) == [5]
    assert batcher.take_batch(1.0) == [] and len(batcher) == 0


@pytest.mark.parametrize(
    "field", [{"refiner": "x"}, {"steps": 3}, {"sampler": "ddim"}, {"width": 32}, {"height": 32}, {"prompt": "a"}]
)
def test_another_model_steps_sampler_or_size_is_another_kind(field):
    batcher = Batcher()
    queued(batcher, 0)
    queued(batcher, 1, **field)
    assert keys(batcher.take_batch(1.0)) == [0]


def test_seed_and_snr_may_differ_within_a_batch():
    batcher = Batcher()
    queued(batcher, 0, seed=1, snr_db=3.0)
    queued(batcher, 1, seed=2, snr_db=None)
    assert keys(batcher.take_batch(1.0)) == [0, 1]


def test_a_lone_task_waits_for_the_window_and_a_full_batch_does_not():
    batcher = Batcher(max_batch=2, window=0.002)
    queued(batcher, 0, now=1.0)
    assert batcher.take_batch(1.001) == []
    assert batcher.next_change(1.001) == pytest.approx(0.001)
    queued(batcher, 1, now=1.001)
    assert keys(batcher.take_batch(1.001)) == [0, 1]
    queued(batcher, 2, now=2.0)
    assert keys(batcher.take_batch(2.002)) == [2]


def test_a_full_batch_overtakes_an_older_task_whose_window_is_open():
    batcher = Batcher(max_batch=2, window=1.0)
    for key, steps in enumerate([1, 2, 2]):
        queued(batcher, key, steps=steps)
    assert keys(batcher.take_batch(0.5)) == [1, 2]


def test_one_more_than_the_queue_holds_is_refused_until_there_is_room():
    batcher = Batcher(max_queue=2)
    assert batcher.admit(task(0)) and batcher.admit(task(1)) and not batcher.admit(task(2))
    assert batcher.take(0).key == 0
    assert batcher.admit(task(2))


def test_the_queue_is_bounded_in_bytes_too():
    batcher = Batcher(max_queue=1000)
    large = {"width": 4096, "height": 4096}
    admitted = sum(batcher.admit(task(key, **large)) for key in range(100))
    assert admitted == QUEUE_BYTES // (4096 * 4096 * 3)


def test_large_images_make_small_batches():
    batcher = Batcher(max_batch=8)
    for key in range(4):
        queued(batcher, key, width=2048, height=BATCH_PIXELS // 2048 // 2)
    assert len(batcher.take_batch(1.0)) == 2


def test_a_task_whose_deadline_has_passed_is_not_started():
    batcher = Batcher()
    queued(batcher, 0, deadline=1.0)
    queued(batcher, 1, deadline=9.0)
    assert batcher.next_change(0.0) <= 1.0
    assert keys(batcher.take_batch(2.0)) == [1]
    assert keys(batcher.take_expired(2.0)) == [0]


def test_a_task_that_is_not_decoded_is_not_started_and_may_leave():
    batcher = Batcher()
    batcher.admit(task(0))
    assert batcher.take_batch(1.0) == []
    assert batcher.take(0).key == 0 and batcher.take(0) is None
    batcher.decoded(0, PIXELS, 1.0)
    assert len(batcher) == 0


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "take", "batch", "expire"]), st.integers(0, 9), st.integers(1, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_whatever_happens_no_task_is_lost_or_given_out_twice(events, max_queue, max_batch):
    batcher, admitted, left, now = Batcher(max_queue, max_batch), Counter(), Counter(), 0.0
    for serial, (event, key, steps) in enumerate(events):
        now += 0.5
        if event == "admit":
            one = task((key, serial), now, deadline=float(key) / 2, steps=steps)
            if batcher.admit(one):
                admitted[one.key] += 1
                batcher.decoded(one.key, PIXELS, now)
        elif event == "take":
            left.update(keys(filter(None, [batcher.take((key, serial - 1))])))
        elif event == "batch":
            batch = batcher.take_batch(now)
            assert len(batch) <= max_batch and len({w.kind for w in batch}) <= 1
            assert all(w.deadline > now for w in batch)
            left.update(keys(batch))
        else:
            left.update(keys(batcher.take_expired(now)))
        assert len(batcher) <= max_queue
    left.update(keys(batcher.take_all()))
    assert left == admitted and set(left.values()) <= {1}


@pytest.mark.parametrize("options", [{"max_queue": 0}, {"max_batch": 0}, {"window": -1}, {"window": 11}])
def test_bounds_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected at least"):
        Batcher(**options)


def test_replies_are_cached_by_bytes_and_by_time_and_the_oldest_are_evicted_first():
    cache = DeduplicationCache(max_bytes=10_000, max_seconds=5.0)
    for number in range(4):
        one = task(number)
        cache.add(one)
        assert cache.tasks[number] is one
        cache.finish(one, [b"x" * 2976], now=float(number), keep=True)
        assert number not in cache.tasks
    assert [cache.reply(number) is not None for number in range(4)] == [False, False, True, True]
    cache.evict(7.5)
    assert [cache.reply(number) is not None for number in range(4)] == [False, False, False, True]
    cache.evict(9.0)
    assert cache.reply(3) is None


def test_a_reply_larger_than_the_bound_is_cached_alone_and_one_that_may_be_retried_not_at_all():
    cache = DeduplicationCache(max_bytes=10)
    for number, keep in enumerate([True, True, False]):
        cache.add(task(number))
        cache.finish(cache.tasks[number], [b"x" * 100], 0.0, keep)
    assert [cache.reply(number) is not None for number in range(3)] == [False, True, False]
