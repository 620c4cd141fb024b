# SPDX-License-Identifier: GPL-3.0-or-later
"""Joint against separate coding: only what both could send is compared."""

import math

import pytest

from diffjscc.evaluate.duels import duels, markdown_duels, verdicts
from diffjscc.evaluate.plan import build_sweep

SWEEP = {"systems": {"J": "deepjscc", "S": {"system": "separate"}, "C": "capacity"}, "rates": ["1/64"], "snrs_db": [1, 7, 13]}


def row(system, snr_db, image, psnr_db):
    sent = psnr_db is not None
    key = {"system": system, "channel": "awgn", "rate": "1/64", "snr_db": snr_db, "image": image, "repeat": 0}
    return {**key, "sent": sent, "psnr_db": psnr_db if sent else math.nan}


ROWS = [
    # The separate system sends the easy image only: its mean of 26 is above the joint one's of 23, and it is worse.
    *(row("J", 1, "easy", 27.0), row("J", 1, "hard", 19.0), row("S", 1, "easy", 26.0), row("S", 1, "hard", None)),
    *(row("J", 7, "easy", 28.0), row("J", 7, "hard", 20.0), row("S", 7, "easy", 29.5), row("S", 7, "hard", 20.5)),
    *(row("J", 13, "easy", 28.0), row("S", 13, "easy", None), row("C", 13, "easy", 40.0)),
]


def test_gains_are_over_the_images_that_both_send():
    low, middle, high, bound = duels(build_sweep({**SWEEP, "images": "x"}), ROWS)
    assert (bound.separate, bound.both, bound.gain_db, bound.lost) == ("C", 1, -12.0, True)
    assert (low.both, low.gain_db, low.only_joint, low.rows, low.lost) == (1, 1.0, 1, 2, False)
    assert (middle.both, middle.gain_db, middle.only_joint, middle.lost) == (2, -1.0, 0, True)
    assert (high.both, high.only_joint, high.lost) == (0, 1, False) and math.isnan(high.gain_db)


def test_it_is_said_where_the_joint_system_loses():
    made = duels(build_sweep({**SWEEP, "images": "x"}), ROWS)
    assert verdicts(made[:3]) == [
        "In PSNR J loses to S at 1 of the 2 points where both send something: "
        "by 1.00 dB at rate 1/64, 7 dB, awgn (2 of 2 transmissions, 0 that only J could send)."
    ]
    assert verdicts(made[:1]) == ["In PSNR J loses to S at 0 of the 1 points where both send something."]
    assert verdicts(made[2:3]) == ["J and S can nowhere be compared: there is no image that both could send."]
    assert "| J | S | awgn | 1/64 | 7 | 2 of 2 | -1.00 | 0 |" in markdown_duels(made)


@pytest.mark.parametrize("changes", [{"metrics": ["niqe"]}, {"systems": ["deepjscc"]}, {"systems": ["separate", "capacity"]}])
def test_without_two_sides_or_psnr_there_is_no_duel(changes):
    assert duels(build_sweep({**SWEEP, "images": "x", **changes}), ROWS) == []
