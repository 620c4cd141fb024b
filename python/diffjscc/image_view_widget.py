# SPDX-License-Identifier: GPL-3.0-or-later
"""The window of `qt_image_view`: PyQt5 alone, without GNU Radio.

┌───────────────────────────────────────────┐
│ view: live · held; wipe · side by side; save│
│ ┌─────────────────────────────────────┐   │
│ │ initial │ refined                    │   │  ImagePair: a wipe that follows the mouse, or two halves
│ └─────────────────────────────────────┘   │
│ image 12 · 768×512 · 1/128 · 3.1 dB · …     │
│ SNR over the last images                    │  Course
│ thumbnails of the last images               │  a list; a click holds one
└───────────────────────────────────────────┘
"""

import math

import numpy as np
from PyQt5.QtCore import QPointF, QRect, QRectF, QSize, Qt, QTimer
from PyQt5.QtGui import QColor, QIcon, QImage, QPainter, QPen, QPixmap
from PyQt5.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from diffjscc.errors import one_line
from diffjscc.images import write_image

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
    """The SNR of the last images, dB."""

    def __init__(self):
        super().__init__()
        self._values = []
        self.setFixedHeight(64)

    def show_values(self, values):
        self._values = values
        self.update()

    def paintEvent(self, event):
        painter = QPainter(self)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.fillRect(self.rect(), QColor(250, 250, 248))
        if not self._values:
            return
        low, high = 5 * math.floor(min(self._values) / 5), 5 * math.ceil(max(self._values) / 5 + 1e-9)
        high = max(high, low + 5)
        plot = QRectF(self.rect()).adjusted(52, 8, -8, -8)
        painter.setPen(QColor(120, 120, 120))
        for value in (low, high):
            y = plot.bottom() - (value - low) / (high - low) * plot.height()
            painter.drawText(QRectF(0, y - 8, 48, 16), Qt.AlignRight | Qt.AlignVCenter, f"{value} dB")
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
        step = plot.width() / max(1, len(self._values) - 1)
        points = [
            QPointF(plot.left() + i * step, plot.bottom() - (value - low) / (high - low) * plot.height())
            for i, value in enumerate(self._values)
        ]
        painter.setPen(QPen(QColor(20, 100, 170), 2))
        for a, b in zip(points, points[1:]):
            painter.drawLine(a, b)
        painter.setBrush(QColor(20, 100, 170))
        painter.drawEllipse(points[-1], 3, 3)


class ImageView(QWidget):
    """Shows what an `ImageHistory` holds, and looks for news `INTERVAL` milliseconds after it has shown the last.

    title  of the window
    """

    def __init__(self, history, title):
        super().__init__()
        self._history = history
        self._held = None
        self._shown = None
        self.setWindowTitle(title)
        self.pair, self.course, self.strip = ImagePair(), Course(), QListWidget()
        self.line = QLabel()
        self.line.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.layouts = QComboBox()
        self.layouts.addItems(LAYOUTS)
        self.layouts.currentIndexChanged.connect(lambda _: self._refresh())
        self.live = QPushButton("Live")
        self.live.setCheckable(True)
        self.live.setChecked(True)
        self.live.setToolTip("Follow the newest image; a click on a thumbnail holds that one")
        self.live.toggled.connect(self._set_live)
        self.save = QPushButton("Save …")
        self.save.clicked.connect(self._ask_and_save)
        self._arrange()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._look)
        self._timer.start(INTERVAL)

    def _arrange(self):
        self.strip.setViewMode(QListView.IconMode)
        self.strip.setFlow(QListView.LeftToRight)
        self.strip.setWrapping(False)
        self.strip.setMovement(QListView.Static)
        self.strip.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.strip.setFixedHeight(THUMBNAIL + 32)
        self.strip.itemClicked.connect(lambda item: self._hold(item.data(Qt.UserRole)))
        buttons = QHBoxLayout()
        for widget in (self.live, self.layouts, self.save):
            buttons.addWidget(widget)
        buttons.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addLayout(buttons)
        column.addWidget(self.pair, 1)
        for widget in (self.line, self.course, self.strip):
            column.addWidget(widget)

    def _look(self):
        """Shows what is new. Qt slots must not raise: an exception would end the process."""
        try:
            newest = self._history.newest()
            state = (newest and (newest.number, tuple(newest.pixels)), self._held and tuple(self._held.pixels))
            if state != self._shown:
                self._shown = state
                self._refresh()
        finally:
            self._timer.start(INTERVAL)

    def _refresh(self):
        reception = self._held or self._history.newest()
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
        self.line.setText(describe(reception))
        self.course.show_values(self._history.snr_course())
        self._refresh_strip()

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
        if self._held is None:
            self.strip.scrollToBottom()

    def _hold(self, reception):
        self._held = reception
        self.live.setChecked(False)
        self._refresh()

    def _set_live(self, live):
        self._held = None if live else self._held or self._history.newest()
        self._refresh()

    def _ask_and_save(self):
        reception = self._held or self._history.newest()
        if reception is None:
            return
        name = f"{reception.metadata.get('image_id', reception.number):06}.png"
        path, _ = QFileDialog.getSaveFileName(self, "Save the image", name, "Images (*.png *.jpg *.webp)")
        if path:
            self.save_as(path, reception)

    def save_as(self, path, reception=None):
        """Writes the best stage of an image, the shown one unless told otherwise; what prevents it is told in the line."""
        reception = reception or self._held or self._history.newest()
        stage = next(stage for stage in RIGHT if stage in reception.pixels)
        try:
            write_image(path, reception.pixels[stage])
        except Exception as error:
            self.line.setText(f"not saved: {one_line(error)}")
        else:
            self.line.setText(f"saved to {path}")


def describe(reception):
    """One line about an image: id, size, rate, SNR, PSNR where the original is known, and whether part of it was lost."""
    metadata = reception.metadata
    parts = [f"image {metadata['image_id']}"] if "image_id" in metadata else []
    parts += [f"{metadata[key]}" for key in ("rate",) if key in metadata]
    size = next(iter(reception.pixels.values())).shape
    parts.insert(1, f"{size[1]}×{size[0]}")
    if isinstance(metadata.get("snr_db"), (int, float)):
        parts.append(f"SNR {metadata['snr_db']:.1f} dB")
    for stage, name in (("initial", "PSNR received"), ("refined", "refined")):
        quality = reception.psnr_db(stage)
        if quality is not None:
            parts.append(f"{name} {quality:.1f} dB")
    if metadata.get("truncated"):
        parts.append("part of it was lost")
    return " · ".join(parts)
