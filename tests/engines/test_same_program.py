"""One program and one set of assertions for every engine: log, print, fail, change one rank's level, flush, kill a rank."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler import LogClient, install, this_host
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.testing import RecordCollector
from tests.leaks import Held
from tests.process.procs import ROOT, importing
from tests.waiting import until

from .commanded import DEADLINE, KILLED_AFTER, LOGGER, Commander, commander, obey
from .needed import need

RANKS = 2

Started = AbstractContextManager[LoggingMeshClient]


@contextmanager
def on_a_proc_mesh(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    procs = this_host().spawn_procs({"gpus": RANKS}, handlers=[collector])
    try:
        called = procs.call(obey, place)
        yield procs.logging
        called.exception(DEADLINE)  # one rank is killed
    finally:
        procs.stop().get()


@contextmanager
def on_a_pool(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    context = multiprocessing.get_context("forkserver")
    with (
        LogClient(collector) as client,
        ProcessPoolExecutor(RANKS, context, initializer=install, initargs=(client.address,)) as pool,
    ):
        tasks = [pool.submit(obey, place) for _ in range(RANKS)]
        yield LoggingMeshClient(client, "", None)
        for task in tasks:
            task.exception(DEADLINE)


class _NoSignals:
    """Replaces the launcher's signals, which only a main thread can handle: no signal arrives; it checks ten times a second."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def wait(self, timeout: float | None) -> list[Any]:
        self._woken.wait(0.1 if timeout is None else min(timeout, 0.1))
        return []

    def wake(self) -> None:
        self._woken.set()


@contextmanager
def under_meshlog_run(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    from meshlog_handler.cli.launch.run import LocalRun, Options

    program = f"import meshlog_handler, tests.engines.commanded as c; meshlog_handler.install(); c.obey({place!r})"
    command = (sys.executable, "-c", program)
    with LogClient(collector) as client:
        console: Any = SimpleNamespace(folding=False, folded=())  # nothing is shown on a terminal here
        signals: Any = _NoSignals()
        run = LocalRun(Options(command, RANKS, grace=DEADLINE), client, console=console, signals=signals)
        thread = threading.Thread(target=run.run)
        thread.start()
        yield LoggingMeshClient(client, "", None)
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert ": SIGKILL at " in run.finish()
        assert run.exitcode == 128 + 9  # the code of the killed rank


@contextmanager
def on_ray(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    ray: Any = need("ray")
    from meshlog_handler.integrations.ray import attach

    held = Held.take()
    ray.init("local", num_cpus=RANKS, include_dashboard=False, log_to_driver=False)
    held.leave_to_engine()  # its event loops and log files stay open after it ends
    try:
        logs = attach(handlers=[collector])
        remote = ray.remote(max_retries=0)(obey)
        tasks = [remote.remote(place) for _ in range(RANKS)]
        yield logs
        ray.wait(tasks, num_returns=RANKS, timeout=DEADLINE)
        logs.drain_and_stop()
    finally:
        ray.shutdown()


@contextmanager
def on_dask(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    distributed: Any = need("distributed")
    from meshlog_handler.integrations.dask import attach

    with (
        distributed.LocalCluster(n_workers=RANKS, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        logs = attach(client, [collector])
        workers = list(client.scheduler_info()["workers"])
        tasks = [client.submit(obey, place, pure=False, workers=[worker]) for worker in workers]
        yield logs
        logs.drain_and_stop()
        client.cancel(tasks)


@contextmanager
def on_monarch(collector: RecordCollector, place: str) -> Iterator[LoggingMeshClient]:
    held = Held.take()
    need("monarch")
    from meshlog_handler.integrations.monarch import attach

    from .monarch_programs import Obeying, spawned

    with spawned(RANKS) as procs:
        logs = attach(procs, [collector]).get(DEADLINE)
        procs.spawn("obeying", Obeying).obey.broadcast(place)
        yield logs
        logs.drain_and_stop()
    held.leave_to_engine()


ENGINES: dict[str, Callable[[RecordCollector, str], Started]] = {
    "ProcMesh": on_a_proc_mesh,
    "ProcessPoolExecutor": on_a_pool,
    "meshlog run": under_meshlog_run,
    "ray": on_ray,
    "dask": on_dask,
    "monarch": on_monarch,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_program(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", importing()["PYTHONPATH"])
    monkeypatch.chdir(ROOT)
    collector = RecordCollector()
    with commander(tmp_path) as command, ENGINES[engine](collector, command.place) as logs:
        logs.set_mode(True, None, logging.INFO)
        ranks = command.await_ranks(RANKS)
        all_is_shown_with_its_rank(logs, command, collector)
        one_rank_is_turned_up(logs, command, collector)
        a_killed_rank_loses_nothing(logs, command, collector)
        command.end()
    assert len(ranks) == RANKS


def shown(collector: RecordCollector, name: str) -> list[tuple[int, str]]:
    """Return what was shown of a logger or a stream: rank and text, in order."""
    return sorted((record.__dict__["rank"], record.getMessage()) for record in list(collector.records) if record.name == name)


def all_is_shown_with_its_rank(logs: LoggingMeshClient, command: Commander, collector: RecordCollector) -> None:
    for rank, each in command.ranks.items():
        each.ask("log", (logging.WARNING, "hello from %d of %s", rank, "the program"))
        each.ask("print", f"printed by {rank}")
        each.ask("fail", f"failure of {rank}")
    receipt = logs.flush(DEADLINE)
    assert set(receipt.acked) >= set(command.ranks)
    assert receipt.missing == ()
    for rank, each in command.ranks.items():
        mine = [record for record in collector.records if record.__dict__["rank"] == rank]
        hello, failed = [record for record in mine if record.name == LOGGER]
        assert (hello.msg, hello.args, hello.process) == ("hello from %d of %s", (rank, "the program"), each.pid)
        assert hello.levelno == logging.WARNING
        assert f"ValueError: failure of {rank}" in str(failed.exc_text)
        (printed,) = [record for record in mine if record.__dict__["stream"] == "stdout"]
        assert printed.getMessage() == f"printed by {rank}"


def one_rank_is_turned_up(logs: LoggingMeshClient, command: Commander, collector: RecordCollector) -> None:
    collector.clear()
    first = min(command.ranks)
    logs.set_level("DEBUG", LOGGER, ranks=[first])
    for rank, each in command.ranks.items():
        each.ask("log", (logging.DEBUG, "detail of %d", rank))
    logs.flush(DEADLINE)
    assert shown(collector, LOGGER) == [(first, f"detail of {first}")]


def a_killed_rank_loses_nothing(logs: LoggingMeshClient, command: Commander, collector: RecordCollector) -> None:
    collector.clear()
    last = max(command.ranks)
    killed = command.ranks[last]
    killed.ask("die")
    until(lambda: _is_over(killed.pid), DEADLINE, "the rank to die")
    receipt = logs.flush(DEADLINE)
    assert receipt.missing == ()  # (a broken pool ends the others, too)
    collector.wait_for(lambda records: len(records) >= KILLED_AFTER, DEADLINE)
    texts = [record.getMessage() for record in collector.records if record.__dict__["rank"] == last and record.name == LOGGER]
    assert texts == [f"last words, {number}" for number in range(KILLED_AFTER)]


def _is_over(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # one at opening, the other at reading
        return True
