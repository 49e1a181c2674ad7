"""gunicorn: every kind of worker, reloads, upgrades, killed workers; its logs go to three places."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import until

from .needed import need
from .running import EXIT_REPORT, Place, Program, same, until_gone

need("gunicorn")

KINDS: dict[str, tuple[str, ...]] = {
    "sync": (),
    "gthread": (),
    "gevent": ("gevent",),
    "uvicorn_worker.UvicornWorker": ("uvicorn_worker",),
}
"""The kinds of workers, and the packages each kind needs."""

CHANCE = (
    (r"pid: ?\d+", "pid:N"),
    (r"pid \d+", "pid N"),
)
"""Patterns for text that differs from run to run."""

LATE = ("Worker exiting", "was sent SIG(KILL|TERM)")
"""gunicorn often kills an idle gevent worker because it does not end in time, whichever handlers it has. A second SIGTERM
may also arrive while the interpreter exits, when Python no longer handles signals.
"""


def command(worker_class: str = "sync") -> tuple[str, ...]:
    """Return the command that starts the server with one kind of worker; skip if that kind is not installed."""
    for package in KINDS[worker_class]:
        need(package)
    return "gunicorn", "-c", "python:gunicorn_conf", "gunicorn_app:" + ("asgi" if "uvicorn" in worker_class else "app")


def same_but_for_late(
    scenario: Callable[[Place], None], worker_class: str, directory: Path, handlers: str = "mesh", **variables: str
) -> None:
    """Compare both runs; gevent workers may be killed as they end, and our client reports that."""
    late = worker_class == "gevent"
    extra, missing = (EXIT_REPORT, LATE) if late else ((), ())
    same(scenario, directory, handlers, normal=CHANCE, extra=extra, missing=missing, variables=variables)


def until_ready(server: Program, workers: int = 2) -> None:
    """Wait until all workers started so far are ready and the server listens."""
    uvicorn = "uvicorn" in server.place.variables.get("WORKER_CLASS", "")
    server.place.until_shown("Application startup complete" if uvicorn else "Worker is ready", workers, "error.log")
    server.until_listens()


def use(server: Program, count: int = 4) -> None:
    """Send some requests, one of which fails."""
    for number in range(count):
        server.ask(f"/{number}")
    server.ask("/boom")


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("worker_class", KINDS)
def test_gunicorn_shows_the_same_with_our_handlers(worker_class: str, handlers: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start(*command(worker_class)) as server:
            until_ready(server)
            use(server)
            server.stop()

    same_but_for_late(scenario, worker_class, tmp_path, handlers, WORKER_CLASS=worker_class)


@pytest.mark.parametrize("worker_class", KINDS)
@pytest.mark.parametrize("preload", ["yes", "no"])
def test_gunicorn_shows_the_same_when_it_reloads(preload: str, worker_class: str, tmp_path: Path) -> None:
    """HUP applies the configuration again and replaces the workers."""

    def scenario(place: Place) -> None:
        with place.start(*command(worker_class)) as server:
            until_ready(server)
            use(server)
            for times in (2, 3):
                old = server.workers()
                server.send(signal.SIGHUP)
                until_ready(server, 2 * times)
                for pid in old:
                    until_gone(pid)
                use(server)
            server.stop()

    same_but_for_late(scenario, worker_class, tmp_path, WORKER_CLASS=worker_class, PRELOAD=preload)


@pytest.mark.parametrize("worker_class", KINDS)
def test_gunicorn_shows_the_same_when_a_worker_is_killed(worker_class: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start(*command(worker_class)) as server:
            until_ready(server)
            use(server)
            # The HTTP client gets its answer before the worker has logged the request.
            place.until_shown(r"GET /\w+ HTTP", 5, "access.log")
            server.send(signal.SIGKILL, server.workers()[0])
            until_ready(server, 3)
            use(server)
            server.stop()

    missing = LATE if worker_class == "gevent" else ()
    same(scenario, tmp_path, normal=CHANCE, extra=EXIT_REPORT, missing=missing, variables={"WORKER_CLASS": worker_class})


def test_gunicorn_shows_the_same_when_workers_are_added_and_removed(tmp_path: Path) -> None:
    """TTIN and TTOU change the number of workers."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            until_ready(server)
            server.send(signal.SIGTTIN)
            until_ready(server, 3)
            use(server)
            server.send(signal.SIGTTOU)
            until(lambda: len(server.workers()) == 2, what="a worker to end")
            use(server)
            # The HTTP client gets its answer before the worker has finished the request, and SIGINT interrupts the rest.
            place.until_shown("by gunicorn.access", 10, "access.log")
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, normal=CHANCE, missing=["was sent SIGTERM"])


def test_gunicorn_shows_the_same_when_it_is_upgraded(tmp_path: Path) -> None:
    """USR2 starts a second server beside the first, which then ends."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            until_ready(server)
            use(server)
            server.send(signal.SIGUSR2)
            until_ready(server, 4)
            new = int(place.read("pid.2"))
            server.stop()
            use(server)
            os.kill(new, signal.SIGTERM)
            until_gone(new)

    same(scenario, tmp_path, normal=CHANCE, missing=["Master:"])


@pytest.mark.skipif(os.getuid() != 0, reason="needs to be root")
def test_gunicorn_shows_the_same_with_workers_of_another_user(tmp_path: Path) -> None:
    """Those workers cannot import or open root's files, and do not need to: the application is loaded before they start."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            until_ready(server)
            use(server)
            server.stop()

    same(scenario, tmp_path, normal=CHANCE, variables={"RUN_AS": "nobody", "PRELOAD": "yes"})


@pytest.mark.parametrize("preload", ["yes", "no"])
def test_gunicorn_shows_the_same_with_one_console_handler(preload: str, tmp_path: Path) -> None:
    """All its loggers propagate to one handler."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            place.until_shown("Worker is ready", 2, "stderr")
            server.until_listens()
            use(server)
            place.until_shown("gunicorn.access", 5, "stderr")  # as above: the requests are finished
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, normal=CHANCE, variables={"TARGETS": "one", "PRELOAD": preload})
