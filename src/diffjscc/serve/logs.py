# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of a server: as text or as JSON, one object a line, and never faster than somebody can read."""

from __future__ import annotations

import json
import logging
import threading
import time

#: Seconds between two lines for one key of a `Limited` log.
SECONDS = 5.0

#: What `logging` itself puts on a record; the rest was given as ``extra``.
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Limited:
    """A logger that writes one line for each key in `SECONDS`, and says how many it left out. Any thread may call it."""

    def __init__(self, logger: logging.Logger):
        self._logger, self._lock = logger, threading.Lock()
        # By key: when a line was written, and how many were left out since.
        self._written: dict[str, tuple[float, int]] = {}

    def info(self, key: str, message: str, *arguments: object, **extra: object) -> None:
        self._log(logging.INFO, key, message, arguments, extra)

    def warning(self, key: str, message: str, *arguments: object, **extra: object) -> None:
        self._log(logging.WARNING, key, message, arguments, extra)

    def _log(self, level: int, key: str, message: str, arguments: tuple, extra: dict) -> None:
        with self._lock:
            now = time.monotonic()
            if len(self._written) > 1000:
                self._written = {key: (at, left) for key, (at, left) in self._written.items() if now - at < SECONDS}
            at, left_out = self._written.get(key, (float("-inf"), 0))
            if now - at < SECONDS:
                self._written[key] = (at, left_out + 1)
                return
            self._written[key] = (now, 0)
        if left_out:
            message, arguments = message + " (and %d more like this)", (*arguments, left_out)
        self._logger.log(level, message, *arguments, extra=extra)


class JsonFormatter(logging.Formatter):
    """{"time": RFC 3339, UTC, "level", "logger", "message", "error": a traceback, and the fields given as ``extra``}."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in USUAL}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(kind: str) -> None:
    """Logs to standard error, as "text" or as "json"."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if kind == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
