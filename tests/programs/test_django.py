"""Django: its own server, with and without its reloader, under gunicorn, and a command with a pool of processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .needed import need
from .running import EXIT_REPORT, Place, Program, same

need("django")

VARIABLES = {"DJANGO_SETTINGS_MODULE": "django_settings"}
CHANCE = (
    (r"\w+ \d+, \d{4} - \d\d:\d\d:\d\d", "TIME"),
    (r"\('127\.0\.0\.1', \d+\)", "HERE"),
    (r"(?m) 500 \d+$", " 500 SIZE"),
)
"""What differs from run to run. The page of an error shows the configuration."""


def use(server: Program) -> None:
    """Send some requests, one that fails and one that is not logged among them."""
    for path in ("/", "/1", "/boom", "/health", "/2"):
        server.ask(path)


@pytest.mark.parametrize("debug", ["yes", "no"])
@pytest.mark.parametrize("handlers", ["mesh", "each"])
def test_its_own_server(handlers: str, debug: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start("django-admin", "runserver", "--noreload", f"127.0.0.1:{place.port}") as server:
            server.until_listens()
            use(server)
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, handlers, normal=CHANCE, variables={**VARIABLES, "DEBUG": debug})


def test_its_reloader(tmp_path: Path) -> None:
    """The process that watches applies the configuration, too; a changed file ends the one that serves."""

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

    # The watching process waits a quarter second for the other after Ctrl-C (`subprocess.call` does), and kills it then.
    same(scenario, tmp_path, normal=CHANCE, extra=EXIT_REPORT, variables={**VARIABLES, "DEBUG": "yes"})


@pytest.mark.parametrize("preload", ["--preload", "--no-sendfile"])
def test_under_gunicorn(preload: str, tmp_path: Path) -> None:
    """Without preloading, each worker applies the configuration for itself."""
    need("gunicorn")

    def scenario(place: Place) -> None:
        address = f"127.0.0.1:{place.port}"
        words = ("-w", "2", "-b", address, "--no-control-socket", preload, "django_settings:application")
        with place.start("gunicorn", *words) as server:
            place.until_shown("Booting worker", 2, "stderr")
            server.until_listens()
            use(server)
            server.stop()

    same(scenario, tmp_path, normal=[*CHANCE, (r"pid: ?\d+", "pid:N")], variables=VARIABLES)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_command_with_a_pool(method: str, tmp_path: Path) -> None:
    same(lambda place: place.run("django-admin", "restock", method), tmp_path, variables=VARIABLES)
