"""Every recipe for processes, pools and servers works exactly as its page shows it, with every start method."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import until

from .documents import MAIN, STARTS, Page, active, imported
from .procs import DEADLINE, METHODS

pytestmark = pytest.mark.docs

PAGE = Page("docs/integrations.md")
GUNICORN = Page("docs/frameworks/gunicorn.md")

RECIPES = [
    (body, method) for body in PAGE.scripts() for method in (METHODS if MAIN in body and imported(body) & STARTS else (None,))
]

APP = """
import logging, os
def app(environ, start_response):
    logging.getLogger("app").info("asked for %s by %d", environ["PATH_INFO"], os.getpid())
    print("printed in", os.getpid())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""


@pytest.mark.parametrize(("body", "method"), RECIPES)
def test_a_recipe_works_as_its_page_shows_it(body: str, method: str | None, tmp_path: Path) -> None:
    if sys.version_info >= (3, 15) and "multiprocess.Pool" in body and "lambda" in body:
        pytest.skip("dill 0.4.1 cannot pickle functions by value on Python 3.15")
    PAGE.run(body, tmp_path, method)


@contextmanager
def gunicorn(directory: Path) -> Iterator[Path]:
    """Run gunicorn with the recipe's configuration; yield the file that contains its output."""
    (directory / "gunicorn.conf.py").write_text(GUNICORN.file("gunicorn.conf.py"))
    (directory / "app.py").write_text(APP)
    output = directory / "output"
    command = [*GUNICORN.command("gunicorn"), "--bind", "unix:socket"]
    with (
        output.open("wb") as file,
        subprocess.Popen(
            command, cwd=directory, env={**active(), "HOME": str(directory)}, stdout=file, stderr=subprocess.STDOUT
        ) as master,
    ):
        try:
            yield output
        finally:
            master.terminate()
            try:
                assert master.wait(DEADLINE) == 0, output.read_text()
            finally:
                master.kill()


def ask(directory: Path, path: str) -> int:
    """Send a request to the server; return the pid of the worker that answered."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(os.path.relpath(directory / "socket"))
        connection.request("GET", path)
        return int(connection.getresponse().read())
    finally:
        connection.close()


def answer(directory: Path, pids: set[int], count: int) -> bool:
    """Send a request, add the pid of the worker to `pids`, and tell whether `count` workers have answered so far."""
    pids.add(ask(directory, "/1"))
    return len(pids) == count


def ranks(shown: str) -> dict[int, set[int]]:
    """Return the ranks with which each worker logged and printed, by pid."""
    found: dict[int, set[int]] = {}
    for rank, pid in re.findall(r"^\[(\d+)\] (?:asked for /\d by|printed in) (\d+)$", shown, re.MULTILINE):
        found.setdefault(int(pid), set()).add(int(rank))
    return found


def test_gunicorn_workers_keep_one_rank_each_when_one_is_killed_and_replaced(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as output:
        until(lambda: "Listening at" in output.read_text(), DEADLINE, output.read_text)
        pids: set[int] = set()
        until(lambda: answer(tmp_path, pids, 2), DEADLINE, output.read_text)
        os.kill(min(pids), signal.SIGKILL)
        # Only a worker that has answered is sure to obey when gunicorn tells it to end.
        until(lambda: answer(tmp_path, pids, 3), DEADLINE, output.read_text)
    shown = output.read_text()
    assert set(ranks(shown)) == pids, shown
    assert all(len(each) == 1 and each <= {0, 1, 2} for each in ranks(shown).values()), shown
    assert re.search(r'^\[\d\] +- - \[.*"GET /1 ', shown, re.MULTILINE), "its own log, forwarded"
    assert re.search(r"^Starting gunicorn", shown, re.MULTILINE), "the master shows its own, which has no rank"
