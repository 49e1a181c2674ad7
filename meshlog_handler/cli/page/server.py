"""The server of ``meshlog web``: the page and its snapshots, for browsers of this user on this machine.

The path of a request begins with the token. There is no cookie: browsers send it to the servers of other users on other ports.
Names of other hosts and other origins are refused: a site in the same browser cannot read the page, also not by another name
for 127.0.0.1.
"""

from __future__ import annotations

import secrets
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from .live import LivePage
from .render import render

HOST: Final = "127.0.0.1"
_MAX_BROWSERS: Final = 16
_SLOW_SEC: Final = 10.0
_SEND_BUFFER: Final = 64 * 1024
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Serves one `LivePage` on 127.0.0.1. `port` 0: any that is free. Raises `OSError` if the port is in use."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = _MAX_BROWSERS

    def __init__(self, page: LivePage, port: int = 0) -> None:
        self.page = page
        self.token = secrets.token_urlsafe(32)
        self.closed = threading.Event()
        self._room = threading.BoundedSemaphore(_MAX_BROWSERS)
        super().__init__((HOST, port), _Handler)

    @property
    def link(self) -> str:
        """The address to open in a browser. It carries the token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def names(self) -> tuple[str, ...]:
        """What a browser may call this server."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, unless there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a browser went away, or was too slow."""

    def server_close(self) -> None:
        """End the connections soon, and close the port."""
        self.closed.set()
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = _SLOW_SEC  # to read a request, and for a browser to take what was sent
    protocol_version = "HTTP/1.1"
    server_version = "meshlog"
    sys_version = ""

    def handle_one_request(self) -> None:
        """Serve one request; each has a separate connection."""
        super().handle_one_request()
        self.close_connection = True

    def do_GET(self) -> None:
        """Answer what a browser asks."""
        token, slash, page = urlsplit(self.path).path.removeprefix("/").partition("/")
        refusal = self._refusal(token, page)
        if refusal:
            self._answer(HTTPStatus.FORBIDDEN, f"{refusal}\n")
        elif slash and page == "":
            self._answer(HTTPStatus.OK, render(None), "text/html")
        elif page == "events":
            self._events()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "There is only one page: that of the link.\n")

    def _refused_method(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered.\n")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_CONNECT = do_TRACE = _refused_method

    def _refusal(self, token: str, page: str) -> str:
        """Return why a request is not answered, or ""."""
        host, origin, site = (self.headers.get_all(name, [""]) for name in ("Host", "Origin", "Sec-Fetch-Site"))
        if len(host) != 1 or host[0].lower() not in self.server.names:
            return "This server is not what the address of the request names."
        if origin != [""] and origin[0] not in [f"http://{name}" for name in self.server.names]:
            return "Pages of other origins may not ask."
        if page != "" and site[0] not in ("", "same-origin", "none"):
            return "Other sites may not ask."
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return "The token is missing or wrong. Open the link that meshlog web has printed."
        return ""

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _events(self) -> None:
        """Send each new snapshot. A slow browser gets fewer; one that takes nothing for 10 seconds is disconnected.

        Little fits into the connection: while a browser does not read, nothing is asked of the run.
        """
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.send_response(HTTPStatus.OK)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        version = 0
        while not self.server.closed.is_set():
            over = self.server.page.over
            version, snapshot = self.server.page.wait(version)
            # A comment shows whether the browser is still connected.
            data = f"data: {snapshot}\n\n".encode("utf-8", "replace") if snapshot else b":\n\n"
            for at in range(0, len(data), _SEND_BUFFER):  # each part may take `_SLOW_SEC`
                self.wfile.write(data[at : at + _SEND_BUFFER])
            if over and not snapshot:
                break

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
