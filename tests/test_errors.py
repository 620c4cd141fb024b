# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors in one line."""

import pytest

from diffjscc.errors import MissingExtra, extra, one_line


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


def test_packages_that_do_not_fit_each_other_are_one_line_with_the_cause(tmp_path, monkeypatch):
    """As diffusers tells it where NumPy is older than what it was installed with."""
    (tmp_path / "odd_package.py").write_text("""
try:
    import numpy
    numpy.no_such_dtypes
except AttributeError as error:
    raise RuntimeError("Failed to import odd_package because of the following error (look up to see its traceback):\\n") from error
""")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra) as caught, extra("refine", "refining"):
        import odd_package  # noqa: F401
    said = str(caught.value)
    assert "\n" not in said and "has no attribute 'no_such_dtypes'" in said and "pip install 'diffjscc[refine]'" in said


def test_a_fault_of_this_package_is_not_taken_for_a_missing_extra():
    with pytest.raises(AttributeError), extra("refine", "refining"):
        one_line.__globals__["_raised_here"](None)
