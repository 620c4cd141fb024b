# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that compute must end before the interpreter does."""

import atexit
import threading
import time
import weakref

from gnuradio import gr

#: Seconds that the process waits on exit for a thread that computes: what one step on a large image may take.
EXIT_TIMEOUT = 60.0

#: Seconds after which that wait is worth a line in the log.
QUIET_EXIT = 0.5

_running = weakref.WeakKeyDictionary()


def start_thread(target, stop, name):
    """A started daemon thread. ``stop`` is called when the interpreter ends, and must make ``target`` return.

    torch aborts the whole process (SIGABRT) when a daemon thread still computes while the interpreter is taken down. A thread
    that is no daemon would keep a process alive whose flowgraph was never stopped.
    """

    def run():
        try:
            target()
        finally:
            # ``stop`` belongs to a block that keeps the thread: neither would ever be freed.
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, daemon=True, name=name)
    _running[thread] = stop
    thread.start()
    return thread


@atexit.register
def _end_threads():
    threads = [(thread, stop) for thread, stop in _running.items() if thread.is_alive()]
    for _, stop in threads:
        stop()
    end = time.monotonic() + QUIET_EXIT
    for thread, _ in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread, _ in threads):
        gr.logger("diffjscc").info(f"the process ends when what is being computed is done, in at most {EXIT_TIMEOUT:.0f} s")
    end = time.monotonic() + EXIT_TIMEOUT
    for thread, _ in threads:
        thread.join(max(0.0, end - time.monotonic()))
