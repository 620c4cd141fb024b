# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors in one line."""

import pytest

from diffjscc.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such file"), "no such file"),
        (ValueError("\n  first\nsecond\n"), "first"),
        (KeyError(), "KeyError"),
        (ValueError("colour \x1b[31mred\x07"), "colour  [31mred"),
        ("", ""),
    ],
)
def test_the_first_line_printable(error, line):
    assert one_line(error) == line


def test_long_lines_are_cut():
    assert one_line("x" * 400, 10) == "x" * 9 + "…"
