# SPDX-License-Identifier: GPL-3.0-or-later
"""A server as a process: it stops on SIGTERM and SIGINT, within its time whatever happens, and its status says how it ended."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time

import numpy as np

from . import keys
from .addresses import ANY_LOCAL
from .allowed import AllowedClients
from .backend import Backend
from .client import RefineClient
from .server import Server, ServerFailed

logger = logging.getLogger(__name__)

#: Seconds that the process may take beyond the time for draining.
GRACE = 0.9

#: The image of a check: its side in pixels, and seconds that a refiner may take to load and refine it.
CHECK_SIDE, CHECK_SECONDS = 128, 600.0


def run_process(server: Server) -> int:
    """Runs a server until it is told to stop by a signal; a second signal stops it at once. Only for the main thread.

    Returns the exit status: 0, or 1 where the server failed, so that whoever started it starts it again. Raises ValueError where
    the backend cannot be made ready.
    """
    status = 1
    signals = 0

    def end() -> None:
        # What a library does at exit, or a thread that hangs, must not keep the process.
        os._exit(status)

    def stop(*_: object) -> None:
        nonlocal signals
        signals += 1
        server.stop()
        timer = threading.Timer(GRACE + (server.drain if signals == 1 else 0.0), end)
        timer.daemon = True
        timer.start()

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    listen()
    try:
        # Again, because Ray puts handlers of its own in their place.
        server.run(on_ready=listen)
        status = 0
    except ServerFailed:
        timer = threading.Timer(GRACE, end)
        timer.daemon = True
        timer.start()
    return status


def check(backend: Backend, server_keys: str | os.PathLike | None, clients: str | os.PathLike | None) -> int:
    """Reads the keys, and refines one image with each refiner, through a server that only this process can reach.

    Prints a line for each; returns the exit status: 0, or 1 where an image was not refined. Raises ValueError where the keys
    cannot be read or the backend cannot be made ready.
    """
    if server_keys is not None and clients is not None:
        keys.load_pair(os.path.join(server_keys, keys.SERVER + keys.SECRET))
        print(f"keys: {len(AllowedClients(clients))} clients may connect")
    server = Server(backend, ANY_LOCAL, drain=1.0)
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            server.run()
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, daemon=True, name="diffjscc-server").start()
    failed = False
    with RefineClient(server.address, on_outage=lambda line: None) as client:
        for refiner in backend.refiners:
            start = time.monotonic()
            job = client.submit(np.full((CHECK_SIDE, CHECK_SIDE, 3), 128, np.uint8), 10.0, refiner, deadline=CHECK_SECONDS)
            while not job.done():
                try:
                    # The server has ended before its time.
                    raise ended.get(timeout=0.02) or ServerFailed("the server has ended")
                except queue.Empty:
                    continue
            error = job.exception()
            failed |= error is not None
            side, seconds = CHECK_SIDE, time.monotonic() - start
            print(f"{refiner}: {error or f'an image of {side}×{side} was refined in {seconds:.2f} s, loading included'}")
    server.stop()
    ended.get()
    return int(failed)
