# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP server: the status page, metrics and probes. Read-only, and closed to what comes from other sites."""

from __future__ import annotations

import ipaddress
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from .. import __version__
from ..errors import one_line

logger = logging.getLogger(__name__)

#: Seconds that a client has to send its request and to read the answer, and the most connections at the same time. When there
#: are more, the oldest is closed: a client that is slow on purpose cannot keep a probe out.
TIMEOUT, MAX_CONNECTIONS = 10.0, 32

#: What a path gives: (status, body, content type).
Answer = tuple[int, bytes, str]


class WebServer:
    """Serves GET and HEAD of given paths in threads of its own. Raises ValueError where the address cannot be bound.

    pages  answers by path
    names  host names under which it may be asked, beside localhost, IP addresses and this machine's own names. A page of another
           site can make a browser ask for any name that the site's owner controls, and must not get an answer
    """

    def __init__(self, host: str, port: int, pages: dict[str, Callable[[], Answer]], names: tuple[str, ...] = ()):
        allowed = {"localhost", host.lower(), *(name.lower() for name in names), *_own_names()}

        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT
            server_version = f"diffjscc/{__version__}"
            sys_version = ""

            def do_GET(self):
                if not _is_allowed(self.headers.get("Host"), allowed):
                    self._answer(421, b"this server is not known under that name; see --status-name\n", "text/plain")
                    return
                make = pages.get(self.path.partition("?")[0])
                self._answer(*(make() if make else (404, b"not found\n", "text/plain")))

            do_HEAD = do_GET

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Content-Security-Policy", "default-src 'none'; img-src data:; style-src 'unsafe-inline'")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format, *args):
                logger.debug(format, *args)

        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot bind the status page to {host}:{port}: {one_line(error)}") from None
        host, port = str(self._server.server_address[0]), self._server.server_address[1]
        self.address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="diffjscc-web")
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(1.0)


class _Server(ThreadingHTTPServer):
    """Bounds the number of connections, and the time that each takes altogether."""

    daemon_threads = True
    request_queue_size = 128
    # `server_close` would otherwise wait for connections that are slow.
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: dict[socket.socket, threading.Timer] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self):
        # Not HTTPServer's, which looks up the host's name, and that can take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request, address):
        timer = threading.Timer(TIMEOUT, _cut, (request,))
        timer.daemon = True
        with self._lock:
            self._open[request] = timer
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
            if oldest is not None:
                self._open.pop(oldest).cancel()
        if oldest is not None:
            _cut(oldest)
        timer.start()
        super().process_request(request, address)

    def shutdown_request(self, request):
        with self._lock:
            timer = self._open.pop(request, None)
        if timer is not None:
            timer.cancel()
        super().shutdown_request(request)

    def handle_error(self, request, address):
        logger.debug("an HTTP connection was broken off", exc_info=True)


def _cut(connection: socket.socket) -> None:
    """Ends a connection; the thread that waits for it gets an error and closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0]}


def _is_allowed(header: str | None, allowed: set[str]) -> bool:
    """Whether a request's Host is one that no foreign site can make a browser send. Probes may leave it out."""
    if header is None:
        return True
    try:
        host = urlsplit(f"//{header.strip()}").hostname or ""
        if host in allowed:
            return True
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False
