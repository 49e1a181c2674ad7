"""gunicorn: its workers of every kind, reloads, upgrades, killed workers; its logs in three places."""

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
"""The kinds of workers, and the packages each needs."""

CHANCE = (
    (r"pid: ?\d+", "pid:N"),
    (r"pid \d+", "pid N"),
)
"""What differs from run to run."""

LATE = ("Worker exiting", "was sent SIG(KILL|TERM)")
"""gunicorn often kills a worker of gevent that had nothing to do: it does not end in time, whichever handlers it has. A second
SIGTERM may also meet it in the interpreter's end, where Python no longer handles signals."""


def command(worker_class: str = "sync") -> tuple[str, ...]:
    """Return the command that starts the server with one kind of worker; skip where it is not installed."""
    for package in KINDS[worker_class]:
        need(package)
    return "gunicorn", "-c", "python:gunicorn_conf", "gunicorn_app:" + ("asgi" if "uvicorn" in worker_class else "app")


def same_but_for_late(
    scenario: Callable[[Place], None], worker_class: str, directory: Path, handlers: str = "mesh", **variables: str
) -> None:
    """Compare; workers of gevent may be killed as they end, and our client says so."""
    late = worker_class == "gevent"
    extra, missing = (EXIT_REPORT, LATE) if late else ((), ())
    same(scenario, directory, handlers, normal=CHANCE, extra=extra, missing=missing, variables=variables)


def until_ready(server: Program, workers: int = 2) -> None:
    """Wait until all workers that were started so far have booted, and the server listens."""
    uvicorn = "uvicorn" in server.place.variables.get("WORKER_CLASS", "")
    server.place.until_shown("Application startup complete" if uvicorn else "Booting worker", workers, "error.log")
    server.until_listens()


def use(server: Program, count: int = 4) -> None:
    """Send some requests, one that fails among them."""
    for number in range(count):
        server.ask(f"/{number}")
    server.ask("/boom")


@pytest.mark.parametrize("handlers", ["mesh", "each"])
@pytest.mark.parametrize("worker_class", KINDS)
def test_requests(worker_class: str, handlers: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start(*command(worker_class)) as server:
            until_ready(server)
            use(server)
            server.stop()

    same_but_for_late(scenario, worker_class, tmp_path, handlers, WORKER_CLASS=worker_class)


@pytest.mark.parametrize("worker_class", KINDS)
@pytest.mark.parametrize("preload", ["yes", "no"])
def test_reload(preload: str, worker_class: str, tmp_path: Path) -> None:
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
def test_a_worker_is_killed(worker_class: str, tmp_path: Path) -> None:
    def scenario(place: Place) -> None:
        with place.start(*command(worker_class)) as server:
            until_ready(server)
            use(server)
            server.send(signal.SIGKILL, server.workers()[0])
            until_ready(server, 3)
            use(server)
            server.stop()

    missing = LATE if worker_class == "gevent" else ()
    same(scenario, tmp_path, normal=CHANCE, extra=EXIT_REPORT, missing=missing, variables={"WORKER_CLASS": worker_class})


def test_workers_come_and_go(tmp_path: Path) -> None:
    """TTIN and TTOU change their number."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            until_ready(server)
            server.send(signal.SIGTTIN)
            until_ready(server, 3)
            use(server)
            server.send(signal.SIGTTOU)
            until(lambda: len(server.workers()) == 2, what="a worker to end")
            use(server)
            # A client has its answer before the worker is done with the request, and SIGINT interrupts that.
            place.until_shown("by gunicorn.access", 8, "access.log")
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, normal=CHANCE, missing=["was sent SIGTERM"])


def test_upgrade(tmp_path: Path) -> None:
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
def test_workers_of_another_user(tmp_path: Path) -> None:
    """They can import and open nothing of root's, and have all they need: the application is loaded before."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            until_ready(server)
            use(server)
            server.stop()

    same(scenario, tmp_path, normal=CHANCE, variables={"RUN_AS": "nobody", "PRELOAD": "yes"})


@pytest.mark.parametrize("preload", ["yes", "no"])
def test_one_console(preload: str, tmp_path: Path) -> None:
    """All its logs propagate to one handler."""

    def scenario(place: Place) -> None:
        with place.start(*command()) as server:
            place.until_shown("Booting worker", 2, "stderr")
            server.until_listens()
            use(server)
            server.stop(signal.SIGINT)

    same(scenario, tmp_path, normal=CHANCE, variables={"TARGETS": "one", "PRELOAD": preload})
