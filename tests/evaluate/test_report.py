# SPDX-License-Identifier: GPL-3.0-or-later
"""The report, opened from a file in headless Chromium."""

import re

import numpy as np
import pytest
from evaluate.browser import Browser
from evaluate.toys import build

from diffjscc.evaluate.plan import build_sweep
from diffjscc.evaluate.report import check_report_path, write_report
from diffjscc.evaluate.run import SweepRun


@pytest.fixture(scope="module")
def report(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    sweep = build_sweep(
        {
            "systems": {
                "dark": {"system": "deepjscc", "grey": 0.2},
                "light": {"system": "toy", "grey": 0.9},
                "cliff </script><b>": {"system": "separate", "cliff_db": 5},
            },
            "rates": ["1/64", "1/16"],
            "snrs_db": [1, 7, 13],
            "images": [str(images)],
            "metrics": ["psnr", "niqe", "dists"],
            "report_images": 2,
        }
    )
    write_report(SweepRun(sweep, folder / "out", 2, build=build).run(), folder / "my-report.html")
    return folder / "my-report.html"


@pytest.fixture(scope="module")
def browser(report, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    browser.open(report)
    yield browser
    browser.close()


def greys(browser, box):
    """Mean grey of the left and right thirds of a tile's lower part, where there is no text."""
    left, top, width, height = (round(value) for value in box)
    tile = browser.pixels()[top + height * 3 // 4 : top + height - 4, left : left + width]
    return tile[:, 8 : width // 3].mean(), tile[:, -width // 3 : -8].mean()


def test_the_page_needs_nothing_else(report):
    text = report.read_text()
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|https?://(?!www\.w3\.org|download\.pytorch\.org)""", text)
    assert "<b>" not in text and "default-src 'none'" in text
    assert report.stat().st_size < 1_000_000


def test_the_page_shows_every_part_and_no_script_fails(browser):
    assert browser.errors == []
    assert browser.run("document.title") == "my report"
    assert browser.run("document.querySelectorAll('#wall figure').length") == 2
    # Nothing else could be measured: the images are too small for NIQE, and DISTS has no weights.
    headings = browser.run("[...document.querySelectorAll('.panel h3')].map((e) => e.firstChild.data.trim())")
    assert headings == ["PSNR, dB", "Share of images sent"]
    assert "no DISTS: " in browser.run("document.getElementById('notes').textContent")
    assert browser.run("document.querySelectorAll('#points tbody tr').length") == 3 * 2 * 3


def test_dragging_the_line_uncovers_the_other_system(browser):
    # The second system is the separate one until another is chosen.
    assert browser.run("document.querySelector('.wipe .tag.second').textContent") == "cliff </script><b>"
    browser.run(
        "(() => { const s = document.querySelectorAll('#wall-controls select')[1]; s.selectedIndex = 1;"
        " s.dispatchEvent(new Event('change')); })()"
    )
    box = browser.box("#wall .wipe")
    left, top, width, height = box
    middle = top + height * 0.6
    before = greys(browser, box)
    assert before == pytest.approx((0.2 * 255, 0.9 * 255), abs=4)
    browser.drag((left + width / 2, middle), (left + 3, middle))
    assert greys(browser, box) == pytest.approx((0.9 * 255, 0.9 * 255), abs=4)
    browser.drag((left + 3, middle), (left + width - 3, middle))
    assert greys(browser, box) == pytest.approx((0.2 * 255, 0.2 * 255), abs=4)
    # The other tile stays as it was, and the keyboard moves the line, too.
    assert browser.run("document.querySelectorAll('.wipe')[1].style.getPropertyValue('--at')") == "50%"
    for _ in range(5):
        browser.key("ArrowLeft", 37)
    share = browser.run("document.querySelector('.wipe').style.getPropertyValue('--at')")
    assert 90 <= float(share.rstrip("%")) < 98


def test_a_system_that_cannot_send_at_this_snr_is_shown_so(browser):
    choose = "(i, v) => {{ const s = document.querySelectorAll('#wall-controls select')[i]; s.selectedIndex = v;"
    choose = f"({choose.format()} s.dispatchEvent(new Event('change')); }})"
    slide = (
        "((v) => { const s = document.querySelector('#wall-controls input'); s.value = v; s.dispatchEvent(new Event('input')); })"
    )
    browser.run(f"{choose}(1, 2)")
    browser.run(f"{slide}(2)")
    assert browser.run("document.querySelectorAll('.wipe .second img').length") == 2
    caption = browser.run("document.querySelector('figcaption').textContent")
    assert re.search(r"PSNR \d+\.\d\d dB", caption)
    browser.run(f"{slide}(0)")
    assert browser.run("document.querySelectorAll('.wipe .second img').length") == 0
    assert browser.run("document.querySelector('.wipe .second').textContent") == "cannot be sent"
    assert browser.run("document.querySelectorAll('.wipe .first img').length") == 2
    # The original is there, too.
    browser.run(f"{choose}(1, 3)")
    assert browser.run("document.querySelector('.wipe .second img').alt").endswith(", original")


def test_pointing_at_a_curve_shows_its_values(browser):
    left, top, width, height = browser.box(".panel svg circle")
    browser.hover((left + width / 2 + 3, top + height / 2))
    assert not browser.run("document.getElementById('tip').hidden")
    text = browser.run("document.getElementById('tip').textContent")
    assert text.startswith("dark\nawgn, rate 1/64, 1 dB\nPSNR, dB: ") and text.endswith("sent: 3 of 3")
    browser.hover((1, 1))
    assert browser.run("document.getElementById('tip').hidden")


def test_a_name_in_the_legend_hides_its_curve(browser):
    curves = "[...document.querySelector('.panel').querySelectorAll('.curve')].length"
    assert browser.run(curves) == 3
    left, top, width, height = browser.box("#legend button")
    browser.click((left + width / 2, top + height / 2))
    assert browser.run(curves) == 2
    browser.run("document.querySelector('#legend button').click()")
    assert browser.run(curves) == 3


def test_a_click_on_a_heading_sorts_the_table_and_what_has_no_value_comes_last(browser):
    column = "[...document.querySelectorAll('#points tbody tr')].map((row) => row.cells[5].textContent)"
    for direction in (1, -1):
        left, top, width, height = browser.box("#points th button", 5)
        browser.click((left + width / 2, top + height / 2))
        cells = browser.run(column)
        values = [float(cell) for cell in cells if cell != "—"]
        # Two points of the cliff sent nothing.
        assert len(values) == 16 and cells[-2:] == ["—", "—"]
        assert values == sorted(values, reverse=direction < 0)
    browser.run(
        "(() => { const f = document.getElementById('filter'); f.value = 'light 13 db'; f.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run("document.querySelectorAll('#points tbody tr').length") == 2
    assert browser.errors == []


def test_the_page_says_where_joint_coding_loses(browser):
    verdict = browser.run("document.getElementById('verdicts').textContent")
    assert verdict.startswith("In PSNR dark loses to cliff </script><b> at 4 of the 4 points where both send something: by ")
    gains = browser.run("[...document.querySelectorAll('#pairs tbody tr')].map((row) => row.cells[7].textContent)")
    assert gains[0] == gains[3] == "—" and all(float(gains[i]) < -3 for i in (1, 2, 4, 5))
    bar = browser.run("document.querySelectorAll('.bar')[1].style.right + document.querySelectorAll('.bar')[1].style.left")
    assert bar == "50%"


def test_nothing_is_wider_than_a_small_window(report, tmp_path):
    browser = Browser(tmp_path, 420, 800)
    browser.open(report)
    assert browser.run("document.documentElement.scrollWidth") <= 420
    assert np.ptp(browser.pixels()) > 100
    browser.close()


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give the name of a file"):
        check_report_path(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check_report_path(tmp_path / "file" / "sub" / "report.html")
