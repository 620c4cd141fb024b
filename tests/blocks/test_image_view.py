# SPDX-License-Identifier: GPL-3.0-or-later
"""qt_image_view: what its window shows of what comes, whichever thread brings it and however fast."""

import contextlib
import threading
import time

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSource, wait_until
from gnuradio import diffjscc, gr
from gnuradio.diffjscc.image_history import Point
from gnuradio.diffjscc.pdus import image_to_pdu
from PyQt5.QtCore import QEvent, QPointF, Qt
from PyQt5.QtGui import QMouseEvent
from PyQt5.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from diffjscc.images import write_image

RED, BLUE, GREY = ((200, 30, 30), (30, 30, 200), (128, 128, 128))


def plain(colour, height=120, width=180):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def view(application):
    block = diffjscc.qt_image_view(length=4)
    block.widget.resize(700, 560)
    block.widget.show()
    yield block
    block.widget.close()


@contextlib.contextmanager
def running(view, port="images"):
    """A source of messages that are handed to the view as the scheduler does, in a thread of its own."""
    flowgraph = gr.top_block()
    source = MessageSource()
    flowgraph.msg_connect(source, "out", view, port)
    flowgraph.start()
    yield source
    flowgraph.stop()
    flowgraph.wait()


def send(view, pixels, port="images", **metadata):
    before = view.taken()
    with running(view, port) as source:
        source.publish(image_to_pdu(pixels, metadata))
        wait_until(lambda: view.taken() > before)


def looked(application, seconds=0.3):
    """Lets the window look for news, and paint."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        application.processEvents()
        time.sleep(0.01)


def colour(widget, x, y):
    """Of a place of the image pair, as shares of its size."""
    image = widget.pair.grab().toImage()
    pixel = image.pixelColor(round(x * (image.width() - 1)), round(y * (image.height() - 1)))
    return pixel.red(), pixel.green(), pixel.blue()


def near(a, b):
    return max(abs(x - y) for x, y in zip(a, b)) < 12


def test_the_wipe_follows_the_mouse(view, application):
    send(view, plain(RED), image_id=3, snr_db=4.2, rate="1/32", stage="initial")
    send(view, plain(BLUE), image_id=3, snr_db=4.2, rate="1/32", stage="refined")
    looked(application)
    assert near(colour(view.widget, 0.3, 0.5), RED) and near(colour(view.widget, 0.7, 0.5), BLUE)
    pair = view.widget.pair
    move = QMouseEvent(QEvent.MouseMove, QPointF(0.9 * pair.width(), 50), Qt.NoButton, Qt.NoButton, Qt.NoModifier)
    application.sendEvent(pair, move)
    assert near(colour(view.widget, 0.7, 0.5), RED)
    view.widget.layouts.setCurrentText("one")
    assert near(colour(view.widget, 0.3, 0.5), BLUE)
    view.widget.layouts.setCurrentText("side by side")
    assert near(colour(view.widget, 0.25, 0.5), RED) and near(colour(view.widget, 0.75, 0.5), BLUE)
    assert view.widget.line.text() == "image 3 · 180×120 · 1/32 · SNR 4.2 dB"


def test_psnr_is_shown_where_the_original_is_known(view, application):
    send(view, plain(GREY), "originals", image_id=8)
    send(view, plain((138, 138, 138)), image_id=8, stage="initial", truncated=True)
    looked(application)
    # 20 log10(255 / 10)
    assert "PSNR 28.1 dB" in view.widget.line.text() and "not whole" in view.widget.line.text()


def test_a_click_holds_an_image_and_live_lets_it_go(view, application):
    for image_id, shade in enumerate((RED, BLUE, GREY)):
        send(view, plain(shade), image_id=image_id, stage="initial")
    looked(application)
    strip = view.widget.strip
    assert [strip.item(row).text() for row in range(strip.count())] == ["0", "1", "2"]
    strip.itemClicked.emit(strip.item(0))
    send(view, plain(BLUE), image_id=3, stage="initial")
    looked(application)
    assert near(colour(view.widget, 0.5, 0.5), RED) and not view.widget.live.isChecked()
    view.widget.live.setChecked(True)
    looked(application)
    assert near(colour(view.widget, 0.5, 0.5), BLUE)


def test_live_shows_a_refined_image_as_long_as_the_refiner_keeps_up(application):
    view = diffjscc.qt_image_view(length=8)
    view.widget.resize(700, 560)
    view.widget.show()
    send(view, plain(RED), image_id=0, snr_db=1.0, stage="initial")
    send(view, plain(BLUE), image_id=0, snr_db=1.0, stage="refined")
    for image_id in range(1, 5):
        send(view, plain(GREY), image_id=image_id, snr_db=1.0, stage="initial")
        looked(application)
        assert "image 0" in view.widget.line.text()
    send(view, plain(GREY), image_id=5, snr_db=1.0, stage="initial")
    looked(application)
    assert "image 5" in view.widget.line.text()
    send(view, plain(BLUE), image_id=3, snr_db=1.0, stage="refined")
    looked(application)
    assert "image 3" in view.widget.line.text() and near(colour(view.widget, 0.7, 0.5), BLUE)
    assert view.widget.strip.count() == 6
    view.widget.close()


def test_the_strip_keeps_the_last_images(view, application, tmp_path):
    for image_id in range(7):
        send(view, plain(RED), image_id=image_id, stage="initial")
        looked(application, 0.05)
    looked(application)
    strip = view.widget.strip
    assert [strip.item(row).text() for row in range(strip.count())] == ["3", "4", "5", "6"]
    view.widget.save_as(str(tmp_path / "saved.png"))
    assert (tmp_path / "saved.png").stat().st_size > 0
    view.widget.save_as(str(tmp_path / "no such folder" / "\0.png"))
    assert view.widget.line.text().startswith("not saved: ")


def test_the_strip_follows_the_newest_image(application):
    view = diffjscc.qt_image_view(length=40)
    view.widget.resize(400, 560)
    view.widget.show()
    for image_id in range(20):
        send(view, plain(RED), image_id=image_id, stage="initial")
    looked(application)
    strip = view.widget.strip
    assert strip.viewport().rect().contains(strip.visualItemRect(strip.item(19)).center())
    assert not strip.viewport().rect().intersects(strip.visualItemRect(strip.item(0)))
    view.widget.close()


def test_a_compact_view_shows_the_received_image_alone_and_its_text_does_not_widen_it(application):
    view = diffjscc.qt_image_view(title="Compact", compact=True)
    view.widget.resize(400, 400)
    view.widget.show()
    send(view, plain(GREY), "originals", image_id=1)
    send(view, plain(RED), image_id=1, stage="initial", rate="1/32", snr_db=1.0, truncated=True)
    looked(application)
    assert near(colour(view.widget, 0.25, 0.5), RED) and near(colour(view.widget, 0.75, 0.5), RED)
    assert view.widget.width() == 400 and not view.widget.strip.isVisible() and not view.widget.live.isVisible()
    assert "not whole" in view.widget.line.text() and "1 of 1 not whole" in view.widget.line.text()
    view.widget.close()


def test_the_course_has_snr_and_psnr(view, application):
    for image_id in range(3):
        send(view, plain(GREY), "originals", image_id=image_id)
        send(view, plain((138, 138, 138)), image_id=image_id, snr_db=float(image_id), stage="initial")
        looked(application, 0.1)
    looked(application)
    course = view._history.course()
    assert [point.snr_db for point in course] == [0, 1, 2]
    # Images that the window did not get to show have none.
    assert course[-1].psnr_db == pytest.approx(28.13, abs=0.01)
    # An image that is no other than its original, and an SNR that is none, are not in the curves.
    send(view, plain(GREY), "originals", image_id=3)
    for snr_db in (1e300, float("nan"), float("-inf"), "high", None):
        send(view, plain(GREY), image_id=3, snr_db=snr_db, stage="initial")
        looked(application, 0.1)
    assert all(point == Point() for point in view._history.course()[3:])
    image = view.widget.course.grab().toImage()
    colours = {image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())}
    assert {colour.name() for colour in view.widget.course.COLOURS} <= colours


@pytest.mark.parametrize("image_id, name", [(7, "000007.png"), ([1], "000003.png"), ("../x", "000003.png"), (None, "000003.png")])
def test_save_proposes_a_file_name(image_id, name):
    from gnuradio.diffjscc.image_history import Reception
    from gnuradio.diffjscc.image_view_widget import proposed_name

    assert proposed_name(Reception(3, {"image_id": image_id})) == name


def test_what_is_no_image_is_one_line(view, application, capfd):
    bad = (pmt.PMT_T, pmt.cons(pmt.make_dict(), pmt.init_u8vector(3, [1, 2, 3])), pmt.intern("x"))
    with running(view) as source:
        for message in bad:
            source.publish(message)
        wait_until(lambda: view.taken() == len(bad))
    assert capfd.readouterr().out.count("image not shown") >= 1
    send(view, plain(RED), image_id="a", snr_db=float("nan"), stage="odd")
    looked(application)
    assert near(colour(view.widget, 0.5, 0.5), RED)


def test_images_are_taken_while_the_window_does_nothing(view):
    """The flowgraph never waits for the window: 100 images of 320×240 are taken without one look of the window."""
    pdus = [image_to_pdu(plain(RED, 240, 320), {"image_id": index, "stage": "initial"}) for index in range(100)]
    with running(view) as source:
        begin = time.monotonic()
        for pdu in pdus:
            source.publish(pdu)
        wait_until(lambda: view.taken() == 100)
        seconds = time.monotonic() - begin
    # 25 images a second would take 4 s.
    assert seconds < 2


@pytest.mark.parametrize("options", ({"length": 0}, {"length": 201}, {"length": "4"}, {"length": True}, {"title": 3}))
def test_bad_options_are_one_line(application, options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} = .*: must be "):
        diffjscc.qt_image_view(**options)


def test_threads_may_bring_stages_in_any_order():
    from gnuradio.diffjscc.image_history import ImageHistory

    history = ImageHistory(50)

    def bring(first):
        for image_id in range(first, 2000, 4):
            for stage in ("initial", "refined") if image_id % 3 else ("refined", "initial"):
                history.add(plain(RED, 8, 8), {"image_id": image_id, "stage": stage, "snr_db": 1.0})
            history.add_original(plain(RED, 8, 8), {"image_id": image_id})

    threads = [threading.Thread(target=bring, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history.all()) == 50 and len(history.course()) == 200
    assert all("initial" in reception.pixels or "refined" in reception.pixels for reception in history.all())


def test_a_source_publishes_its_originals_under_the_ids_that_it_sends(view, application, tmp_path):
    images = [plain(RED, 64, 80), plain(BLUE, 64, 80)]
    for number, pixels in enumerate(images):
        write_image(tmp_path / f"{number}.png", pixels)
    flowgraph = gr.top_block()
    source, sink = diffjscc.jscc_source(str(tmp_path), repeat=True, rate="1/16", snr_db=20.0), diffjscc.jscc_sink()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect(source, "originals", view, "originals")
    flowgraph.msg_connect(sink, "images", view, "images")
    flowgraph.start()
    wait_until(lambda: sum(len(reception.pixels) == 2 for reception in view._history.all()) >= 2)
    whole = [reception for reception in view._history.all() if len(reception.pixels) == 2]
    flowgraph.stop()
    flowgraph.wait()
    for reception in whole:
        assert np.array_equal(reception.pixels["original"], images[reception.metadata["image_id"] % 2])
        assert reception.psnr_db("initial") > 20


@pytest.mark.parametrize("given", [None, (300, 320)])
def test_the_window_of_a_flowgraph_shows_all_of_the_view_unless_it_was_given_a_size(view, application, given):
    """As in what the companion makes: a scroll area, which alone would ask for less than the view needs."""
    window, area, inside = QWidget(), QScrollArea(), QWidget()
    area.setWidgetResizable(True)
    area.setWidget(inside)
    QVBoxLayout(window).addWidget(area)
    QVBoxLayout(inside).addWidget(view.widget)
    if given:
        window.resize(*given)
    window.show()
    application.processEvents()
    if given:
        assert (window.width(), window.height()) == given
    else:
        needed, shown = inside.sizeHint(), area.viewport().size()
        assert shown.width() >= max(needed.width(), 600) and shown.height() >= max(needed.height(), 500)
    view.widget.setParent(None)
    window.close()
