"""uvicorn: alone, with workers, reloading; its own configuration has a handler for errors and one for accesses."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.waiting import until

from .needed import need
from .running import DEADLINE, EXIT_REPORT, Place, Program, same

need("uvicorn")

SERVER = "uvicorn_main.py"


def use(server: Program, count: int = 4) -> None:
    """Send some requests, one of which fails."""
    for number in range(count):
        server.ask(f"/{number}")
    server.ask("/boom")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
@pytest.mark.parametrize("handlers", ["mesh", "each"])
def test_uvicorn_alone_shows_the_same_with_our_handlers(
    handlers: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    def scenario(place: Place) -> None:
        with place.start(SERVER) as server:
            server.until_listens()
            use(server)
            server.stop(number, code)

    same(scenario, tmp_path, handlers, killed=code < 0)


@pytest.mark.parametrize("handlers", ["mesh", "each"])
def test_uvicorn_with_workers_shows_the_same_with_our_handlers(handlers: str, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes at once."""

    def scenario(place: Place) -> None:
        with place.start(SERVER, "workers=2") as server:
            place.until_shown("Started server process", 2, "stderr")
            server.until_listens()
            use(server)
            server.interrupt()
            server.ends(0)

    same(scenario, tmp_path, handlers, missing=["Terminated child process"])


def test_uvicorn_shows_the_same_when_a_worker_is_killed(tmp_path: Path) -> None:
    """uvicorn replaces the worker."""

    def scenario(place: Place) -> None:
        with place.start(SERVER, "workers=2") as server:
            place.until_shown("Started server process", 2, "stderr")
            use(server)
            first = int(place.read("stderr").partition("Started server process [")[2].partition("]")[0])
            server.send(signal.SIGKILL, first)
            place.until_shown("Started server process", 3, "stderr")
            use(server)
            server.stop()

    same(scenario, tmp_path, extra=EXIT_REPORT)


def change(watched: Path, place: Place, times: int) -> None:
    """Change a file until the reloader notices: it looks every quarter second, and its first look only notes the time."""

    def noticed() -> bool:
        if len(re.findall("detected changes", place.read("stderr"))) >= times:
            return True
        watched.write_text(watched.read_text() + "\n")
        return False

    until(noticed, DEADLINE, place.says, interval=0.05)


def test_uvicorn_shows_the_same_when_it_reloads(tmp_path: Path) -> None:
    """Each new process applies the configuration again."""

    def scenario(place: Place) -> None:
        watched = place.directory / "watched.py"
        watched.write_text("from gunicorn_app import asgi as app\n")
        with place.start(SERVER, "reload") as server:
            place.until_shown("Started server process", 1, "stderr")
            for times in (2, 3):
                use(server)
                change(watched, place, times - 1)
                place.until_shown("Started server process", times, "stderr")
            use(server)
            server.interrupt()
            server.ends(0)

    same(scenario, tmp_path, normal=[(r"process \[\d+\] using", "process [N] using")])
