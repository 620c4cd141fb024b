# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that compute must end before the interpreter does."""

import atexit
import threading
import weakref

#: Seconds that the process waits on exit for a thread that computes: what one step on a large image may take.
EXIT_TIMEOUT = 60.0

_running = weakref.WeakKeyDictionary()


def start_thread(target, stop, name):
    """A started daemon thread. ``stop`` is called when the interpreter ends, and must make ``target`` return.

    torch aborts the whole process (SIGABRT) when a daemon thread still computes while the interpreter is taken down. A thread
    that is no daemon would keep a process alive whose flowgraph nobody stopped.
    """
    thread = threading.Thread(target=target, daemon=True, name=name)
    _running[thread] = stop
    thread.start()
    return thread


@atexit.register
def _end_threads():
    threads = [(thread, stop) for thread, stop in _running.items() if thread.is_alive()]
    for _, stop in threads:
        stop()
    for thread, _ in threads:
        thread.join(EXIT_TIMEOUT)
