# SPDX-License-Identifier: GPL-3.0-or-later
"""Fragments to images."""

import numpy as np
import pytest
from air.signals import gaussian

from diffjscc.air.gatherer import Gatherer
from diffjscc.air.modulator import fragments
from diffjscc.symbols import ImageHeader, Symbols


def sent(image_id=0, session=0, size=96, burst_symbols=60):
    """An image's symbols, and its fragments."""
    header = ImageHeader(image_id, size, size, "lite", "1/32", 1.0)
    symbols = Symbols(gaussian(header.symbol_count, seed=image_id), header)
    return symbols, list(fragments(symbols, burst_symbols, session))


def push(gatherer, part, noise=0.1, snr_db=10.0, now=0.0):
    fragment, values = part
    return gatherer.push(fragment, values, np.full(len(values), noise, np.float32), snr_db, now)


def test_an_image_is_given_out_with_its_last_fragment_whatever_their_order():
    symbols, parts = sent()
    assert len(parts) == 5
    gatherer = Gatherer()
    for part in parts[3:] + parts[:2]:
        assert push(gatherer, part) == []
    ((header, reception),) = push(gatherer, parts[2])
    assert header == symbols.header
    assert np.array_equal(reception.values, symbols.values)
    assert np.all(reception.noise_var == np.float32(0.1))
    assert gatherer.flush() == []


def test_what_is_missing_when_the_next_image_begins_is_an_erasure():
    first, parts = sent(0)
    gatherer = Gatherer()
    for index in (0, 1, 4):
        push(gatherer, parts[index], snr_db=(0.0, 3.0, 6.0)[index % 3])
    ((header, reception),) = push(gatherer, sent(1)[1][0])
    assert header.image_id == 0
    lost = np.isinf(reception.noise_var)
    assert lost.sum() == sum(len(values) for _, values in parts[2:4])
    assert np.array_equal(reception.values[~lost], first.values[~lost]) and not reception.values[lost].any()
    # The mean of 0, 3 and 3 dB as powers.
    assert reception.snr_db == pytest.approx(10 * np.log10((1 + 2 * 10**0.3) / 3))


def test_a_deadline_gives_an_image_out():
    gatherer = Gatherer(deadline=1.0)
    push(gatherer, sent()[1][0], now=10.0)
    assert gatherer.expire(10.9) == []
    assert len(gatherer.expire(11.1)) == 1
    assert gatherer.expire(99.0) == []


def test_fragments_that_come_after_their_image_are_counted():
    _, parts = sent()
    gatherer = Gatherer(deadline=1.0)
    push(gatherer, parts[0])
    gatherer.expire(2.0)
    assert push(gatherer, parts[1], now=2.1) == [] and gatherer.late == 1
    assert gatherer.flush() == []


def test_a_transmitter_that_starts_anew_begins_a_new_image():
    """Where its session happens to be the same: with a fragment that was there already, or another image's."""
    for again in (sent(session=3)[1][0], sent(7, session=3)[1][2]):
        gatherer = Gatherer()
        push(gatherer, sent(session=3)[1][0])
        push(gatherer, sent(session=3)[1][1])
        ended = push(gatherer, again)
        assert [np.isinf(reception.noise_var).sum() for _, reception in ended] == [36 * 8 - 57 - 58]
        assert len(gatherer.flush()) == 1


def test_transmitters_that_take_turns_do_not_cut_each_other_s_images():
    """Four at once, with the same image ids; fragment by fragment."""
    images = [sent(session, session=session) for session in range(4)]
    gatherer, ended = Gatherer(), []
    for turn in range(5):
        for _, parts in images:
            ended += push(gatherer, parts[turn])
    assert [header for header, _ in ended] == [symbols.header for symbols, _ in images]
    for (_, reception), (symbols, _) in zip(ended, images):
        assert np.array_equal(reception.values, symbols.values) and np.isfinite(reception.noise_var).all()


def test_of_too_many_transmitters_the_one_that_was_silent_longest_is_given_up():
    gatherer = Gatherer()
    for session in (5, 6, 7, 8, 5):
        assert push(gatherer, sent(session, session=session)[1][0 if session != 5 or not gatherer.waiting else 1]) == []
    ended = push(gatherer, sent(9, session=9)[1][0])
    assert [header.image_id for header, _ in ended] == [6]
    assert [header.image_id for header, _ in gatherer.flush()] == [7, 8, 5, 9]


def test_each_image_has_its_own_deadline():
    gatherer = Gatherer(deadline=1.0)
    push(gatherer, sent(0, session=1)[1][0], now=10.0)
    push(gatherer, sent(1, session=2)[1][0], now=10.5)
    push(gatherer, sent(2, session=3)[1][0], now=11.0)
    assert [header.image_id for header, _ in gatherer.expire(11.6)] == [0, 1]
    assert [header.image_id for header, _ in gatherer.expire(99.0)] == [2]


def test_an_image_id_may_come_again():
    """Ids wrap after 65536 images; a still life sent twice is two images."""
    symbols, parts = sent(burst_symbols=8000)
    gatherer = Gatherer()
    for _ in range(3):
        ((header, reception),) = push(gatherer, parts[0])
        assert np.array_equal(reception.values, symbols.values)
    assert gatherer.late == 0


def test_symbols_that_are_no_numbers_are_erasures():
    _, parts = sent(burst_symbols=8000)
    fragment, values = parts[0]
    values, noise = values.copy(), np.full(len(values), 0.1, np.float32)
    values[3], noise[5], noise[7] = np.nan, np.nan, -1.0
    ((_, reception),) = Gatherer().push(fragment, values, noise, 10.0)
    assert np.isinf(reception.noise_var).sum() == 3
    assert np.isfinite(reception.values).all()


def test_a_cut_fragment_is_taken_as_far_as_it_goes():
    symbols, parts = sent(burst_symbols=8000)
    fragment, values = parts[0]
    ((_, reception),) = push(Gatherer(), (fragment, values[:100]))
    assert np.isfinite(reception.noise_var).sum() == 100


def test_a_thousand_broken_images_leave_nothing_behind():
    gatherer = Gatherer(deadline=1.0)
    for image_id in range(1000):
        push(gatherer, sent(image_id)[1][image_id % 5])
    assert len(gatherer._given_out) <= 64


def test_a_deadline_must_be_positive():
    with pytest.raises(ValueError, match="deadline = 0"):
        Gatherer(deadline=0)
