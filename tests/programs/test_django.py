"""Django: its own server with and without its reloader, under gunicorn, and a command with a process pool."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from .needed import need
from .running import EXIT_REPORT, Place, Program, same, temporary_directory

need("django")

VARIABLES = {"DJANGO_SETTINGS_MODULE": "django_settings"}
CHANCE = (
    (r"\w+ \d+, \d{4} - \d\d:\d\d:\d\d", "TIME"),
    (r"\('127\.0\.0\.1', \d+\)", "HERE"),
    (r"(?m) 500 \d+$", " 500 SIZE"),
)
"""Patterns for text that differs from run to run. An error page shows the configuration."""


def use(server: Program) -> None:
    """Send some requests: one fails, and one is not logged."""
    for path in ("/", "/1", "/boom", "/health", "/2"):
        server.ask(path)


@pytest.mark.parametrize("debug", ["yes", "no"])
@pytest.mark.parametrize("handlers", ["mesh", "each"])
def test_djangos_server_shows_the_same_with_our_handlers(handlers: str, debug: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start("django-admin", "runserver", "--noreload", f"127.0.0.1:{place.port}") as server:
            server.until_listens()
            use(server)
            # The HTTP client gets its answer before the server has logged the request, and SIGINT interrupts the rest.
            place.until_shown(r"GET /\w* HTTP", 4)
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, handlers, normal=CHANCE, variables={**VARIABLES, "DEBUG": debug})


def test_djangos_reloader_shows_the_same_with_our_handlers(tmp_path: Path) -> None:
    """The watching process applies the configuration too; a changed file ends the serving process."""

    def scenario(place: Place) -> None:
        watched = place.directory / "watched.py"
        watched.write_text("")
        place.variables["DJANGO_SETTINGS_MODULE"] = "reloaded"
        (place.directory / "reloaded.py").write_text("from django_settings import *\nimport watched\n")
        with place.start(
            "django-admin", "runserver", "--pythonpath", str(place.directory), f"127.0.0.1:{place.port}"
        ) as server:
            place.until_shown("Watching for file changes")
            server.until_listens()
            use(server)
            status = watched.stat()
            os.utime(watched, (status.st_atime, status.st_mtime + 10))
            place.until_shown("Watching for file changes", 2)
            server.until_listens()
            use(server)
            server.interrupt()
            server.ends()

    # After Ctrl-C, the watching process waits a quarter second for the other (`subprocess.call` does), then kills it.
    same(scenario, tmp_path, normal=CHANCE, extra=EXIT_REPORT, variables={**VARIABLES, "DEBUG": "yes"})


@pytest.mark.parametrize("preload", ["--preload", "--no-sendfile"])
def test_django_under_gunicorn_shows_the_same_with_our_handlers(preload: str, tmp_path: Path) -> None:
    """Without preloading, each worker applies the configuration itself."""
    need("gunicorn")

    def scenario(place: Place) -> None:
        address = f"127.0.0.1:{place.port}"
        words = ("-w", "2", "-b", address, "-c", "python:gunicorn_ready", "--no-control-socket", preload)
        with place.start("gunicorn", *words, "django_settings:application") as server:
            place.until_shown("Worker is ready", 2, "stderr")
            server.until_listens()
            use(server)
            server.stop()

    same(scenario, tmp_path, normal=[*CHANCE, (r"pid: ?\d+", "pid:N")], variables=VARIABLES)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_django_command_with_a_pool_shows_the_same(method: str, tmp_path: Path) -> None:
    same(lambda place: place.run("django-admin", "restock", method), tmp_path, variables=VARIABLES)


def test_workers_that_apply_the_settings_themselves_share_one_rotating_file(tmp_path: Path) -> None:
    """Without preloading, with workers that gunicorn recycles and others that are killed, each record is shown once."""
    need("gunicorn")
    with temporary_directory() as run_directory:
        place = Place(tmp_path, "plain", {"DJANGO_SETTINGS_MODULE": "django_jobs"}, Path(run_directory))
        words = ("-w", "3", "-b", f"127.0.0.1:{place.port}", "--no-control-socket", "--max-requests", "20")
        with place.start("gunicorn", *words, "django_jobs:application") as server:
            server.until_listens()
            for number in range(120):
                if number % 30 == 20:
                    server.send(signal.SIGKILL, server.workers()[number // 30 % 2])
                assert server.ask(f"/{number}") == "ok"
            server.stop()
        assert list(Path(run_directory).glob("*/*")) == []
    asked = Counter(line for name, text in place.shown().items() if name.startswith("site.log") for line in text.splitlines())
    expected = {f"INFO shop asked for /{number}" for number in range(120)}
    assert {line: asked[line] for line in expected if asked[line] != 1} == {}
    assert [line for line in asked if line not in expected and not re.search("|".join(EXIT_REPORT), line)] == []
