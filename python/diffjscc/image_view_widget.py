# SPDX-License-Identifier: GPL-3.0-or-later
"""The window of `qt_image_view`: PyQt5 alone, without GNU Radio.

┌───────────────────────────────────────────┐
│ title                                     │
│ live · held; wipe · side by side; save    │  not in a compact view
│ ┌─────────────────────────────────────┐   │
│ │ initial │ refined                   │   │  ImagePair: a wipe that follows the mouse, or two halves
│ └─────────────────────────────────────┘   │
│ image 12 · 768×512 · 1/128 · 3.1 dB · …   │
│ SNR and PSNR over the last images         │  Course
│ thumbnails of the last images             │  a list, a click holds one; not in a compact view
└───────────────────────────────────────────┘
"""

import math

import numpy as np
from PyQt5.QtCore import QPointF, QRect, QRectF, QSize, Qt, QTimer
from PyQt5.QtGui import QColor, QIcon, QImage, QPainter, QPen, QPixmap, QPolygonF
from PyQt5.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from diffjscc.errors import one_line
from diffjscc.images import write_image

from .pdus import CALLSIGN

#: Size of a flowgraph's window at first, pixels, where what it holds does not need more.
FIRST_SIZE = QSize(700, 700)

#: Milliseconds between looks for a new image: 30 images a second are shown at most, the newest of those that came.
INTERVAL = 33

#: Side of a thumbnail, pixels.
THUMBNAIL = 72

#: Ways to show two stages.
LAYOUTS = ("wipe", "side by side", "one")

#: Stages from the most to the least wanted, on the right and on the left of a pair.
RIGHT, LEFT = ("refined", "initial", "original"), ("initial", "original", "refined")


def to_qimage(pixels):
    """uint8 (H, W, 3) → QImage, which holds a copy."""
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels)
    return QImage(pixels.data, width, height, 3 * width, QImage.Format_RGB888).copy()


class ImagePair(QWidget):
    """Two images of one scene: a wipe between them that follows the mouse, or one beside the other."""

    def __init__(self):
        super().__init__()
        self._images, self._names, self._layout, self._wipe = [None, None], ["", ""], LAYOUTS[0], 0.5
        self.setMouseTracking(True)
        self.setMinimumSize(320, 200)
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Expanding)

    def show_images(self, left, right, names, layout):
        """left, right: QImage, or None for none; names of the two; layout: one of `LAYOUTS`."""
        self._images, self._names, self._layout = [left, right], names, layout
        self.update()

    def mouseMoveEvent(self, event):
        area = self._fitted(self.rect())
        if area.width():
            self._wipe = min(1.0, max(0.0, (event.x() - area.left()) / area.width()))
            self.update()

    def paintEvent(self, event):
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(24, 24, 24))
        painter.setRenderHint(QPainter.SmoothPixmapTransform)
        left, right = self._images
        if right is None:
            painter.setPen(QColor(150, 150, 150))
            painter.drawText(self.rect(), Qt.AlignCenter, "no image received yet")
        elif left is None or self._layout == "one":
            area = self._fitted(self.rect())
            painter.drawImage(area, right)
            self._label(painter, area, self._names[1], Qt.AlignRight)
        elif self._layout == "wipe":
            self._paint_wipe(painter, left, right)
        else:
            half = self.width() // 2
            for image, name, x in ((left, self._names[0], 0), (right, self._names[1], half)):
                area = self._fitted(QRect(x, 0, half, self.height()))
                painter.drawImage(area, image)
                self._label(painter, area, name, Qt.AlignLeft)

    def _paint_wipe(self, painter, left, right):
        area = self._fitted(self.rect())
        painter.drawImage(area, right)
        edge = area.left() + round(self._wipe * area.width())
        painter.save()
        painter.setClipRect(QRect(area.left(), area.top(), edge - area.left(), area.height()))
        painter.drawImage(area, left)
        painter.restore()
        painter.setPen(QPen(QColor(255, 255, 255), 1))
        painter.drawLine(edge, area.top(), edge, area.bottom())
        self._label(painter, area, self._names[0], Qt.AlignLeft)
        self._label(painter, area, self._names[1], Qt.AlignRight)

    def _fitted(self, space):
        """The largest rectangle of the image's shape within ``space``."""
        image = self._images[1] or self._images[0]
        if image is None:
            return space
        size = image.size().scaled(space.size(), Qt.KeepAspectRatio)
        return QRect(
            space.left() + (space.width() - size.width()) // 2,
            space.top() + (space.height() - size.height()) // 2,
            size.width(),
            size.height(),
        )

    @staticmethod
    def _label(painter, area, text, side):
        space = area.adjusted(6, 6, -6, -6)
        box = painter.boundingRect(space, side | Qt.AlignTop, text).adjusted(-4, -2, 4, 2)
        painter.fillRect(box, QColor(0, 0, 0, 140))
        painter.setPen(QColor(255, 255, 255))
        painter.drawText(space, side | Qt.AlignTop, text)


class Course(QWidget):
    """SNR and PSNR of the last images, dB: one curve above the other's scale, left and right."""

    #: Of the two curves.
    COLOURS = (QColor(20, 100, 170), QColor(200, 90, 10))

    def __init__(self):
        super().__init__()
        self._curves = ([], [])
        # A line for the names, and one each for the upper and the lower value.
        self.setFixedHeight(4 * self.fontMetrics().height() + 8)

    def show_points(self, points):
        """points: those of `ImageHistory.course`."""
        self._curves = ([point.snr_db for point in points], [point.psnr_db for point in points])
        self.update()

    def paintEvent(self, event):
        painter = QPainter(self)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.fillRect(self.rect(), QColor(250, 250, 248))
        wide, high = self.fontMetrics().horizontalAdvance("-100 dB") + 4, self.fontMetrics().height()
        plot = QRectF(self.rect()).adjusted(wide + 4, 1.5 * high + 4, -wide - 4, -0.5 * high - 4)
        sides = (
            (QRectF(0, 0, wide, high), Qt.AlignRight, "SNR"),
            (QRectF(plot.right() + 4, 0, wide, high), Qt.AlignLeft, "PSNR"),
        )
        for values, colour, (label, side, name) in zip(self._curves, self.COLOURS, sides):
            known = [(index, value) for index, value in enumerate(values) if value is not None]
            if known:
                painter.setPen(colour)
                painter.drawText(label, side | Qt.AlignVCenter, name)
                self._paint_curve(painter, plot, known, len(values), colour, label, side)

    @staticmethod
    def _paint_curve(painter, plot, known, count, colour, label, side):
        """known: [(index, value)]; count: of all images."""
        low, high = (edge([value for _, value in known]) for edge in (min, max))
        low, high = 5 * math.floor(low / 5), 5 * math.ceil(high / 5 + 1e-9)
        high = max(high, low + 5)

        def place(index, value):
            x = plot.left() + index * plot.width() / max(1, count - 1)
            return QPointF(x, plot.bottom() - (value - low) / (high - low) * plot.height())

        for value in (low, high):
            at = place(0, value).y()
            painter.setPen(colour)
            painter.drawText(label.translated(0, at - label.height() / 2), side | Qt.AlignVCenter, f"{value} dB")
            painter.setPen(QColor(190, 190, 190))
            painter.drawLine(QPointF(plot.left(), at), QPointF(plot.right(), at))
        points = [place(index, value) for index, value in known]
        painter.setPen(QPen(colour, 2))
        painter.drawPolyline(QPolygonF(points))
        painter.setBrush(colour)
        painter.drawEllipse(points[-1], 3, 3)


class ImageView(QWidget):
    """Shows what an `ImageHistory` holds, and looks for news `INTERVAL` milliseconds after it has shown the last.

    title    of the window, and above the image
    compact  without buttons and strip and with the received image alone, for windows that hold several views
    """

    def __init__(self, history, title, compact=False):
        super().__init__()
        self._history = history
        self._held = None
        self._shown = None
        self.setWindowTitle(title)
        self.title = QLabel(title)
        font = self.title.font()
        font.setBold(True)
        self.title.setFont(font)
        self.title.setVisible(bool(title))
        self.pair, self.course, self.strip = ImagePair(), Course(), QListWidget()
        self.line = QLabel()
        self.line.setTextInteractionFlags(Qt.TextSelectableByMouse)
        # The text changes with each image, the window's width must not: it wraps, in room for two lines.
        self.line.setWordWrap(True)
        self.line.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Fixed)
        self.line.setFixedHeight(2 * self.line.fontMetrics().lineSpacing() + 4)
        self.line.setAlignment(Qt.AlignTop | Qt.AlignLeft)
        self.layouts = QComboBox()
        self.layouts.addItems(LAYOUTS)
        self.layouts.currentIndexChanged.connect(lambda _: self._refresh())
        self.live = QPushButton("Live")
        self.live.setCheckable(True)
        self.live.setChecked(True)
        self.live.setToolTip("Follow the newest image, or a refined one hardly older; a click on a thumbnail holds that one")
        self.live.toggled.connect(self._set_live)
        self.save = QPushButton("Save …")
        self.save.clicked.connect(self._ask_and_save)
        self._arrange(compact)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._look)
        self._timer.start(INTERVAL)

    def showEvent(self, event):
        """Makes the flowgraph's window large enough for what it holds, where neither the user nor a last run has given it a size.

        The companion puts widgets into a scroll area, which by itself asks for some 360×420 pixels.
        """
        super().showEvent(event)
        area, window = self.parent(), self.window()
        while area is not None and not isinstance(area, QScrollArea):
            area = area.parent()
        if area is None or window.testAttribute(Qt.WA_Resized):
            return
        frame = window.size() - area.viewport().size()
        room = window.screen().availableSize()
        window.resize(FIRST_SIZE.expandedTo(area.widget().sizeHint() + frame).boundedTo(room))

    def _arrange(self, compact):
        self.strip.setViewMode(QListView.IconMode)
        self.strip.setFlow(QListView.LeftToRight)
        self.strip.setWrapping(False)
        self.strip.setMovement(QListView.Static)
        self.strip.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.strip.setFixedHeight(THUMBNAIL + 32)
        self.strip.itemClicked.connect(lambda item: self._hold(item.data(Qt.UserRole)))
        head = QWidget()
        buttons = QHBoxLayout(head)
        buttons.setContentsMargins(0, 0, 0, 0)
        for widget in (self.live, self.layouts, self.save):
            buttons.addWidget(widget)
        buttons.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(self.title)
        column.addWidget(head)
        column.addWidget(self.pair, 1)
        for widget in (self.line, self.course, self.strip):
            column.addWidget(widget)
        if compact:
            # A wipe to the original would hide half of what two views compare.
            self.layouts.setCurrentText("one")
            head.hide()
            self.strip.hide()

    def _look(self):
        """Shows what is new. Qt slots must not raise: an exception would end the process."""
        try:
            newest, shown = self._history.newest(), self._held or self._history.followed()
            state = newest and (newest.number, shown.number, tuple(shown.pixels))
            if state != self._shown:
                self._shown = state
                self._refresh()
        finally:
            self._timer.start(INTERVAL)

    def _refresh(self):
        reception = self._held or self._history.followed()
        if reception is None:
            return
        pixels = dict(reception.pixels)
        right = next(stage for stage in RIGHT if stage in pixels)
        left = next((stage for stage in LEFT if stage in pixels and stage != right), None)
        self.pair.show_images(
            to_qimage(pixels[left]) if left else None,
            to_qimage(pixels[right]),
            ["received" if stage == "initial" else stage or "" for stage in (left, right)],
            self.layouts.currentText(),
        )
        self.line.setText(describe(reception) + self._described_flow())
        self.course.show_points(self._history.course())
        self._refresh_strip()

    def _described_flow(self):
        """What the line tells of the last images together: how many a second, and how many of them did not come whole."""
        rate, receptions = self._history.rate(), self._history.all()
        words = [f"{rate:.0f} images/s"] if rate >= 1.5 else []
        holed = sum(bool(reception.metadata.get("truncated")) for reception in receptions)
        if holed:
            words.append(f"{holed} of {len(receptions)} not whole")
        return "".join(f" · {word}" for word in words)

    def _refresh_strip(self):
        receptions = self._history.all()
        kept = {reception.number for reception in receptions}
        for row in reversed(range(self.strip.count())):
            if self.strip.item(row).data(Qt.UserRole).number not in kept:
                self.strip.takeItem(row)
        there = {self.strip.item(row).data(Qt.UserRole).number for row in range(self.strip.count())}
        for reception in receptions:
            if reception.number not in there:
                image = to_qimage(reception.pixels[next(stage for stage in LEFT if stage in reception.pixels)])
                icon = QIcon(QPixmap.fromImage(image.scaled(THUMBNAIL, THUMBNAIL, Qt.KeepAspectRatio)))
                item = QListWidgetItem(icon, str(reception.metadata.get("image_id", reception.number)))
                item.setData(Qt.UserRole, reception)
                self.strip.addItem(item)
        if self._held is None and self.strip.count():
            self.strip.scrollToItem(self.strip.item(self.strip.count() - 1))

    def _hold(self, reception):
        self._held = reception
        self.live.setChecked(False)
        self._refresh()

    def _set_live(self, live):
        self._held = None if live else self._held or self._history.followed()
        self._refresh()

    def _ask_and_save(self):
        reception = self._held or self._history.followed()
        if reception is None:
            return
        path, _ = QFileDialog.getSaveFileName(self, "Save the image", proposed_name(reception), "Images (*.png *.jpg *.webp)")
        if path:
            self.save_as(path, reception)

    def save_as(self, path, reception=None):
        """Writes the best stage of an image, the shown one unless told otherwise; what prevents it is told in the line."""
        reception = reception or self._held or self._history.followed()
        stage = next(stage for stage in RIGHT if stage in reception.pixels)
        try:
            write_image(path, reception.pixels[stage])
        except Exception as error:
            self.line.setText(f"not saved: {one_line(error)}")
        else:
            self.line.setText(f"saved to {path}")


def proposed_name(reception):
    """File name for an image: its image_id, or its number among those received where the id is no number."""
    image_id = reception.metadata.get("image_id")
    return f"{image_id if isinstance(image_id, int) else reception.number:06d}.png"


def describe(reception):
    """One line about an image: id, callsign, size, rate, SNR, PSNR where the original is known, and whether part of it was lost."""
    metadata = reception.metadata
    parts = [f"image {metadata['image_id']}"] if "image_id" in metadata else []
    parts += [f"{metadata[key]}" for key in ("rate",) if key in metadata]
    size = next(iter(reception.pixels.values())).shape
    parts.insert(1, f"{size[1]}×{size[0]}")
    if metadata.get(CALLSIGN):
        parts.insert(1, f"from {metadata[CALLSIGN]}")
    if isinstance(metadata.get("snr_db"), (int, float)):
        parts.append(f"SNR {metadata['snr_db']:.1f} dB")
    for stage, name in (("initial", "PSNR"), ("refined", "refined PSNR")):
        quality = reception.psnr_db(stage)
        if quality is not None:
            parts.append(f"{name} {quality:.1f} dB")
    if metadata.get("truncated"):
        parts.append("not whole")
    return " · ".join(parts)
