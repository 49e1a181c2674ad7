"""``meshlog web``: the live page, for browsers that have the token, and for nobody else."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest

from meshlog_handler import LogClient
from meshlog_handler.cli.page.live import LivePage
from meshlog_handler.cli.page.server import PageServer
from meshlog_handler.cli.view.observer import runs
from meshlog_handler.client.observers import observers
from tests.process.browser import CHROMIUM, Browser
from tests.waiting import until

DEADLINE = 30.0


class Served:
    """A client with a logger, and the server of its page."""

    def __init__(self, client: LogClient, server: PageServer) -> None:
        self.client = client
        self.server = server
        self.log = logging.getLogger("meshlog.test.web")
        self.log.propagate = False
        self.log.setLevel(logging.INFO)

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPResponse]:
        """Return the status and the response; the headers are those of a browser, unless they are given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=DEADLINE)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": self.server.names[0], **headers}.items():
            if value:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response

    @property
    def with_token(self) -> str:
        return urlsplit(self.server.link).path

    @property
    def events(self) -> str:
        return f"{self.with_token}events"

    def show(self, text: str, count: int, level: int = logging.INFO) -> None:
        """Show records, on the client's thread."""
        record = logging.LogRecord("app", level, "app.py", 7, f"{text} %s", ("x" * 100,), None)

        def show_all() -> None:
            for _ in range(count):
                self.client._loop.dispatcher.show(record)

        self.client.ask(show_all)

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """Yield what a browser gets."""
        status, response = self.ask(self.events)
        assert status == 200
        with response:
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


@pytest.fixture
def served() -> Iterator[Served]:
    from logging.handlers import QueueHandler

    with LogClient(logging.NullHandler()) as client:
        (run,) = [each for each in runs() if each.address == client.address]
        page = LivePage(run)
        server = PageServer(page)
        page.start()
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        made = Served(client, server)
        handler = QueueHandler(client.queue)
        made.log.addHandler(handler)
        try:
            yield made
        finally:
            made.log.removeHandler(handler)
            server.shutdown()
            server.server_close()
            page.close()
            thread.join(DEADLINE)


def test_only_the_token_opens_the_page(served: Served) -> None:
    status, response = served.ask(served.with_token)
    assert status == 200
    assert response.headers["Set-Cookie"] is None
    assert served.with_token == f"/{served.server.token}/"
    for path in (
        "/",
        "/events",
        "//",
        "/x/",
        "/x/events",
        f"/x{served.with_token}",
        f"/?token={served.server.token}",
        f"/{served.server.token}x/",
        f"/{served.server.token[:-1]}/",
        "/%C3%A9/events",
        "//[",
    ):
        assert served.ask(path, Cookie=f"meshlog-{served.server.server_port}={served.server.token}")[0] == 403, path
    for path in ("other", "events/", "/"):
        assert served.ask(f"{served.with_token}{path}")[0] == 404, path
    assert served.ask(served.with_token[:-1])[0] == 404  # its script would ask for a wrong path


def test_other_names_origins_sites_and_methods_are_refused(served: Served) -> None:
    port = served.server.server_port
    for host in ("", "evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"localhost.evil:{port}"):
        assert served.ask(served.with_token, Host=host)[0] in (400, 403), host
    assert served.ask(served.with_token, Host=f"localhost:{port}")[0] == 200
    for origin in (
        "null",
        "http://evil.example",
        "http://127.0.0.1",
        f"https://127.0.0.1:{port}",
        f"http://127.0.0.1:{port}.evil",
    ):
        assert served.ask(served.events, Origin=origin)[0] == 403, origin
    for site in ("cross-site", "same-site"):
        assert served.ask(served.events, Sec_Fetch_Site=site)[0] == 403, site
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"):
        assert served.ask(served.with_token, method)[0] == 405, method


def test_the_page_is_served_on_this_host_only(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    headers = served.ask(served.with_token)[1].headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_browser_gets_what_is_logged_and_the_end(served: Served) -> None:
    served.log.warning("before")
    snapshots = served.snapshots()

    def shows(text: str) -> bool:
        return any(text in line for line in next(snapshots)["texts"])

    until(lambda: shows("before"), DEADLINE, "the record before")
    served.log.error("later </script> \u202e")
    until(lambda: shows("later </script> \\u202e"), DEADLINE, "the record after")
    served.client.stop()
    *_, last = snapshots
    assert last["over"]


def test_while_nobody_looks_the_client_sends_no_more_than_fits(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 60_000
    monkeypatch.setattr(follower := served.server.page._follower, "items", read := Mock(side_effect=follower.items))
    served.show("first", count)
    served.show("it failed", 1, logging.ERROR)
    followers = [each for each in served.client._loop.observers._observers if each.follows is not None]
    waiting = served.client.ask(lambda: [len(each.outbox) for each in followers])
    assert waiting[0] > observers.MAX_UNREAD / 2
    assert not read.called
    served.show("second", count)
    snapshots = served.snapshots()

    def is_complete() -> bool:
        snapshot = next(snapshots)
        return bool(snapshot["missed"] + snapshot["total"] == 2 * count + 1) and "it failed" in str(snapshot["texts"])

    until(is_complete, DEADLINE, "the error, and the number of all others")


def test_the_end_of_a_run_is_on_the_page_although_nobody_looked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "_LAST_SEC", DEADLINE)  # for a busy machine
    served.show("first", 60_000)
    served.show("the last line", 1, logging.ERROR)
    served.client.stop()
    *_, last = served.snapshots()
    assert last["over"]
    assert "the last line" in str(last["texts"])


def test_browsers_that_read_nothing_stop_nobody(served: Served) -> None:
    slow = []
    for _ in range(20):  # more than there is room for
        connection = socket.create_connection(("127.0.0.1", served.server.server_port), DEADLINE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.append(connection)
    try:
        for number in range(2000):
            served.log.info("%d %s", number, "x" * 100)
        receipt = served.client.flush(DEADLINE)
        assert receipt.missing == ()
        assert _status(served) == 0
    finally:
        for connection in slow:
            connection.close()
    until(lambda: _status(served) == 200, DEADLINE, "the server to answer again")


def _status(served: Served) -> int:
    try:
        return served.ask(served.with_token)[0]
    except (OSError, http.client.HTTPException):  # there is no room yet
        return 0


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_live_page_in_a_browser(served: Served) -> None:
    served.log.info("first line")
    with Browser() as browser:
        browser.open(served.server.link)
        browser.until("document.querySelector('#lines').innerText.includes('first line')")
        assert browser.run("document.cookie") == ""
        served.log.error("second line")
        browser.until("document.querySelector('#lines').innerText.includes('second line')")
        served.client.stop()
        browser.until("document.querySelector('#live').textContent === 'the run has ended'")
        assert browser.errors() == []
