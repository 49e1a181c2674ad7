"""Programs of `multiprocessing` whose processes end in every way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .running import EXIT_REPORT, NORMAL_END, Place, same

METHODS = ("fork", "spawn", "forkserver")

WORKERS = ((r"(Process|PoolWorker)-[\d:]+", r"\1-N"), (r"Thread-\d+ \(_handle_workers\)", "MainThread"))
"""The processes of a pool: which of them takes a task is random, and so is which thread of the pool forked it."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ending", ["joined", "unjoined", "daemon", "grandchild", "terminated"])
def test_processes_show_the_same_with_our_handlers(ending: str, method: str, tmp_path: Path) -> None:
    same(lambda place: place.run("processes.py", ending, method), tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ending", ["os._exit", "sys.exit", "raises"])
def test_failing_processes_show_the_same_with_our_handlers(ending: str, method: str, tmp_path: Path) -> None:
    """The client may report the failure."""
    same(lambda place: place.run("processes.py", ending, method), tmp_path, extra=[*EXIT_REPORT, NORMAL_END])


@pytest.mark.parametrize("method", METHODS)
def test_the_client_reports_processes_that_are_killed(method: str, tmp_path: Path) -> None:
    """The client reports each in an additional record."""
    mesh = same(lambda place: place.run("processes.py", "killed", method), tmp_path, extra=EXIT_REPORT)
    assert mesh.read("problems.log").count("ERROR meshlog") == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["executor", "executor-left", "pool", "pool-closed", "pool-left", "pool-recycled"])
def test_pools_show_the_same_with_our_handlers(kind: str, method: str, tmp_path: Path) -> None:
    same(lambda place: place.run("pools.py", kind, method), tmp_path, normal=WORKERS)


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_pool_shows_the_same_with_our_handlers(method: str, tmp_path: Path) -> None:
    same(lambda place: place.run("pools.py", "executor-broken", method), tmp_path, normal=WORKERS, extra=EXIT_REPORT)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("returns", 0),
        ("raises", 1),
        ("sys.exit", 3),
        ("terminated-orderly", 0),
        ("interrupted", -signal.SIGINT),
        ("thread", 0),
        ("shutdown", 0),
    ],
)
def test_one_process_shows_the_same_with_our_handlers(ending: str, code: int, tmp_path: Path) -> None:
    same(lambda place: place.run("exits.py", ending, code=code), tmp_path)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("os._exit", 0),
        ("killed", -signal.SIGKILL),
        ("crashes", -signal.SIGABRT),
        ("terminated", -signal.SIGTERM),
        ("execv", 0),
    ],
)
def test_one_process_that_ends_at_once_shows_the_same_with_our_handlers(ending: str, code: int, tmp_path: Path) -> None:
    same(lambda place: place.run("exits.py", ending, code=code), tmp_path, killed=True)


@pytest.mark.parametrize("leave", ["_exit", "exit"])
def test_a_daemon_shows_the_same_with_our_handlers(leave: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start("daemon.py", leave) as program:
            program.ends()
            place.until_shown("daemon ends", name="app.log")

    same(scenario, tmp_path, killed=True)
