# SPDX-License-Identifier: GPL-3.0-or-later
"""Setters that a running flowgraph calls."""

import functools

from gnuradio import gr

from diffjscc.errors import one_line


def refuses_bad_values(setter):
    """A block's setter that logs and publishes one line, and keeps the old value, where ``setter`` raises.

    GNU Radio's callbacks come from Qt slots and message handlers, where an exception ends the whole process.
    """

    @functools.wraps(setter)
    def wrapper(self, value):
        try:
            setter(self, value)
        except Exception as error:
            line = f"{setter.__name__}: {one_line(error)}; the old value stays"
            log = getattr(self, "_log", None)
            if log is not None:
                log.say("refused", line)
            else:
                # A hierarchical block has neither a log nor a logger of its own.
                gr.logger(self.name()).warn(line)

    return wrapper
