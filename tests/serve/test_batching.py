# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests are computed together, and which are remembered: without sockets, and with a clock of our own."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjscc.serve.batching import BATCH_PIXELS, QUEUE_BYTES, TILED_PIXELS, Batcher
from diffjscc.serve.deduplication import DeduplicationCache
from diffjscc.serve.protocol import Request
from diffjscc.serve.work import Client, State, Work

PIXELS = np.zeros((16, 16, 3), np.uint8)


def task(key, now=0.0, deadline=60.0, width=16, height=16, client="one", **fields):
    request = Request(id=str(key), refiner="mini", width=width, height=height, encoding="png", image=b"x")
    request = Request(**vars(request) | fields)
    return Work(key, b"digest", request, Client(client, "", client), now, now + deadline)


def queued(batcher, key, now=0.0, **fields):
    assert batcher.admit(task(key, now, **fields)) == []
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
    assert [batcher.admit(task(key)) for key in range(3)] == [[], [], None]
    assert batcher.take(0).key == 0
    assert batcher.admit(task(2)) == []


def test_the_queue_is_bounded_in_bytes_too():
    batcher = Batcher(max_queue=1000)
    large = {"width": 4096, "height": 4096}
    admitted = sum(batcher.admit(task(key, **large)) is not None for key in range(100))
    assert admitted == QUEUE_BYTES // (4096 * 4096 * 3)


def test_large_images_make_small_batches():
    batcher = Batcher(max_batch=8)
    for key in range(8):
        queued(batcher, key, width=2048, height=TILED_PIXELS // 2048)
    assert len(batcher.take_batch(1.0)) == BATCH_PIXELS // TILED_PIXELS


def test_an_image_that_is_refined_in_tiles_is_a_batch_of_its_own():
    batcher = Batcher()
    for key in range(2):
        queued(batcher, key, width=2048, height=TILED_PIXELS // 2048 + 1)
    assert keys(batcher.take_batch(1.0)) == [0]


def test_between_tiles_only_small_images_are_handed_out():
    batcher = Batcher()
    queued(batcher, "large", width=2048, height=TILED_PIXELS // 2048 + 1)
    queued(batcher, "small")
    assert keys(batcher.take_batch(1.0, TILED_PIXELS)) == ["small"]
    assert batcher.take_batch(1.0, TILED_PIXELS) == []
    assert keys(batcher.take_batch(1.0)) == ["large"]


class TestFairness:
    """Each client has a share of the queue, and they take turns."""

    def test_clients_take_turns_whatever_one_of_them_has_queued(self):
        batcher = Batcher(max_queue=1000, max_batch=1)
        for key in range(100):
            queued(batcher, key, client="greedy")
        batcher.take_batch(1.0)
        for key in ("a", "b"):
            queued(batcher, key, client="modest")
        order = [batcher.take_batch(1.0)[0].client.name for _ in range(6)]
        assert order.count("modest") == 2 and "modest" in order[:2] and "modest" in order[2:4]

    def test_a_batch_holds_one_of_each_client_before_a_second_one_of_any(self):
        batcher = Batcher(max_batch=4)
        for key in range(8):
            queued(batcher, key, client="greedy")
        queued(batcher, "b", client="two")
        queued(batcher, "c", client="three")
        batch = batcher.take_batch(1.0)
        assert {"b", "c"} <= set(keys(batch)) and len(batch) == 4

    def test_the_client_with_the_most_makes_room_in_a_full_queue_until_shares_are_equal(self):
        batcher = Batcher(max_queue=8)
        for key in range(8):
            queued(batcher, key, client="greedy")
        assert batcher.admit(task(8, client="greedy")) is None
        # The newest leaves, which has waited least.
        assert [keys(batcher.admit(task(name, client="modest"))) for name in "abcd"] == [[7], [6], [5], [4]]
        assert batcher.admit(task("e", client="modest")) is None
        assert [keys(batcher.admit(task("f", client="third"))), len(batcher)] == [[3], 8]

    def test_bytes_are_shared_like_places(self):
        batcher = Batcher(max_queue=1000)
        large = {"width": 4096, "height": 4096}
        while batcher.admit(task(len(batcher), client="greedy", **large)) == []:
            pass
        before = len(batcher)
        assert keys(batcher.admit(task("a", client="modest", **large))) == [before - 1]
        assert batcher.bytes <= QUEUE_BYTES

    def test_clients_take_turns_at_being_decoded_too_and_what_left_is_not_decoded(self):
        batcher = Batcher(max_queue=1000)
        for key in range(100):
            batcher.admit(task(key, client="greedy"))
        first = batcher.next_to_decode(1 << 30)
        batcher.admit(task("a", client="modest"))
        assert (first.key, first.state, batcher.next_to_decode(1 << 30).key) == (0, State.DECODING, "a")
        for key in range(99):
            batcher.take(key)
        assert batcher.next_to_decode(1 << 30).key == 99 and batcher.next_to_decode(1 << 30) is None

    def test_small_images_are_decoded_where_large_ones_may_not_be(self):
        batcher = Batcher()
        batcher.admit(task("large", width=2048, height=2048))
        batcher.admit(task("small"))
        assert batcher.next_to_decode(3 << 20).key == "small" and batcher.next_to_decode(3 << 20) is None


def test_a_task_whose_deadline_has_passed_is_not_started():
    batcher = Batcher()
    queued(batcher, 0, deadline=1.0)
    queued(batcher, 1, deadline=9.0)
    assert batcher.next_change(0.0) <= 1.0
    assert keys(batcher.take_batch(2.0)) == [1]
    assert keys(batcher.take_expired(2.0)) == [0]


def test_a_retry_may_postpone_a_deadline_and_bring_it_forward():
    batcher = Batcher()
    works = [task(key, deadline=5.0) for key in range(2)]
    for work in works:
        batcher.admit(work)
    batcher.postpone(works[0], 9.0)
    batcher.postpone(works[1], 2.0)
    assert [keys(batcher.take_expired(now)) for now in (1.0, 2.0, 5.0, 9.0)] == [[], [1], [], [0]]


def test_a_task_that_is_not_decoded_is_not_started_and_may_leave():
    batcher = Batcher()
    batcher.admit(task(0))
    assert batcher.take_batch(1.0) == []
    assert batcher.take(0).key == 0 and batcher.take(0) is None
    batcher.decoded(0, PIXELS, 1.0)
    assert len(batcher) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["admit", "take", "batch", "expire"]), st.integers(0, 9), st.integers(1, 3), st.sampled_from("abc")
        ),
        max_size=60,
    ),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_whatever_happens_no_task_is_lost_or_given_out_twice(events, max_queue, max_batch):
    batcher, admitted, left, now = Batcher(max_queue, max_batch), Counter(), Counter(), 0.0
    for serial, (event, key, steps, client) in enumerate(events):
        now += 0.5
        if event == "admit":
            one = task((key, serial), now, deadline=float(key) / 2, steps=steps, client=client)
            if (leaving := batcher.admit(one)) is not None:
                left.update(keys(leaving))
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
        assert cache.works[number] is one
        cache.finish(one, [b"x" * 2976], now=float(number), keep=True)
        assert number not in cache.works
    assert [cache.reply(number) is not None for number in range(4)] == [False, False, True, True]
    cache.evict(7.5)
    assert [cache.reply(number) is not None for number in range(4)] == [False, False, False, True]
    cache.evict(9.0)
    assert cache.reply(3) is None


def test_a_reply_larger_than_the_bound_is_cached_alone_and_one_that_may_be_retried_not_at_all():
    cache = DeduplicationCache(max_bytes=10)
    for number, keep in enumerate([True, True, False]):
        cache.add(task(number))
        cache.finish(cache.works[number], [b"x" * 100], 0.0, keep)
    assert [cache.reply(number) is not None for number in range(3)] == [False, True, False]
