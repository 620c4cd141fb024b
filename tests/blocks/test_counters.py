# SPDX-License-Identifier: GPL-3.0-or-later
"""What blocks count, and how often they say so."""

import threading

import pytest
from gnuradio.diffjscc.counters import Counters
from gnuradio.diffjscc.logs import RateLimitedLog


def test_counters_count_by_name_and_tell_reasons():
    counters = Counters("received", "written", "dropped", by_reason=("dropped",))
    counters.count("received", 3)
    counters.count("written", reason="late")
    counters.count("dropped", reason="header")
    counters.count("dropped", 2, reason="queue full")
    assert counters.snapshot() == {"received": 3, "written": 1, "dropped": {"header": 1, "queue full": 2}}
    assert list(counters.snapshot()) == ["received", "written", "dropped"]
    assert counters["dropped"] == 3
    assert counters.reasons() == {"written": {"late": 1}, "dropped": {"header": 1, "queue full": 2}}
    with pytest.raises(KeyError):
        counters.count("recieved")


def test_no_count_is_lost_between_threads():
    counters = Counters("received")
    threads = [threading.Thread(target=lambda: [counters.count("received") for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot() == {"received": 16000}


def test_what_happens_often_is_a_line_every_ten_seconds_with_its_number():
    lines, now = [], [100.0]
    log = RateLimitedLog(lines.append, clock=lambda: now[0])
    log.note("full", "queue full")
    for _ in range(5):
        now[0] += 1.8
        log.note("full", "queue full")
        log.note("stray", lambda count: f"{count} symbols", 7)
    assert lines == ["queue full", "7 symbols"]
    now[0] += 5.0
    log.note("full", "queue full")
    log.note("stray", lambda count: f"{count} symbols", 7)
    assert lines == ["queue full", "7 symbols", "queue full (6 times in 14 s)", "35 symbols"]
