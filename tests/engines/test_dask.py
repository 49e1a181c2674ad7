"""Dask: workers of a real cluster, started by the client or by commands, attached to it and detached again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import FlushTimeout, LoggingMeshClient
from meshlog_handler.testing import RecordCollector

from ..waiting import until
from .needed import need

distributed = need("distributed")

from meshlog_handler.integrations.dask import attach  # noqa: E402  # needs distributed

from . import dask_tasks as tasks  # noqa: E402  # needs distributed
from .dask_clusters import ROOT, SECONDS, by_commands, local_cluster, pids  # noqa: E402  # needs distributed

Client = distributed.Client

# Nothing in Dask closes what it starts once for all clusters: pools of idle threads.
pytestmark = pytest.mark.timeout(180)


@contextlib.contextmanager
def attached(client: Any, relay: bool = False) -> Iterator[tuple[LoggingMeshClient, RecordCollector]]:
    """Attach with a collector, each record at once; detach at the end."""
    collector = RecordCollector()
    logs = attach(client, [collector], relay=relay or _relayed.get(client, False))
    try:
        logs.set_mode(True, None, logging.INFO)
        yield logs, collector
    finally:
        logs.drain_and_stop()


@pytest.fixture(params=["local", "commands", "relayed"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A client of two workers: processes of its own, or of others, which join directly, or relays in their nannies."""
    if request.param == "local":
        with local_cluster() as started:
            yield started
    else:
        with by_commands(tmp_path) as (_, started):
            _relayed[started] = request.param == "relayed"
            yield started


_relayed: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def on_each(client: Any, fn: Any, *args: Any) -> list[Any]:
    """Run a task on each worker at a time; return the results."""
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    return list(client.gather([client.submit(fn, *args, workers=[each], pure=False) for each in workers]))


def all_left(client: Any) -> bool:
    """Tell whether no worker has anything of ours left that runs."""
    return not any(state["threads"] for state in client.run(tasks.state).values())


def mine(collector: RecordCollector) -> list[tuple[Any, ...]]:
    """Return rank, stream and text of what tasks said."""
    return sorted(
        (r.rank, r.stream or "", r.getMessage())  # type: ignore[attr-defined]  # a record of the mesh
        for r in collector.records
        if not r.name.startswith("distributed")
    )


def test_records_prints_and_subprocesses_arrive_once_with_rank_and_stream(client: Any) -> None:
    with attached(client) as (logs, collector):
        ids = on_each(client, tasks.say, "x")
        receipt = logs.flush()
        assert mine(collector) == sorted(
            (rank, stream, f"{verb} x")
            for rank in (0, 1)
            for stream, verb in (("", "logged"), ("stdout", "printed"), ("stdout", "echoed"))
        )
        assert {r.process for r in collector.records if r.name == "app"} == set(ids)
        assert (receipt.acked, receipt.missing, receipt.dead) == ((0, 1), (), ())
        assert logs.ranks == (0, 1)


def test_a_failing_task_is_told_of_by_dasks_own_record(client: Any) -> None:
    with attached(client) as (logs, collector):
        assert isinstance(client.submit(tasks.fail, "boom").exception(), ValueError)
        logs.flush()
        [told] = [r for r in collector.records if "Compute Failed" in r.getMessage()]
        assert (told.name, told.levelno) == ("distributed.worker", logging.WARNING) or told.levelno == logging.ERROR
        assert "boom" in told.getMessage()
        assert told.stream is None  # type: ignore[attr-defined]  # a record of the mesh
        assert [r for r in collector.records if r.stream] == []  # type: ignore[attr-defined]  # as above


def test_the_level_of_one_rank(client: Any) -> None:
    with attached(client) as (logs, collector):
        logs.set_level("DEBUG", "app", ranks=[1])
        on_each(client, tasks.log, logging.DEBUG, "details")
        logs.flush()
        assert mine(collector) == [(1, "", "details")]


def test_what_dask_brings_here_itself_comes_once(capfd: pytest.CaptureFixture[str]) -> None:
    with local_cluster(1) as client:
        client.forward_logging("app")
        with attached(client) as (logs, collector), restored_app_logger() as forwarded:
            on_each(client, tasks.say_by_dask, "x")
            on_each(client, tasks.say, "x")
            logs.flush()
            said = sorted(text for _, _, text in mine(collector))
            assert [text for text in said if "warn" not in text] == ["dask printed x", "echoed x", "logged x", "printed x"]
            assert sum("UserWarning: dask warned x" in text for text in said) == 1
            assert forwarded.records == []
        with restored_app_logger() as forwarded:
            on_each(client, tasks.log, logging.WARNING, "y")
            forwarded.wait_for(bool)
        on_each(client, tasks.print_by_dask, "y")
        until(lambda: "dask printed y" in capfd.readouterr().out, what="Dask to print here again")


@contextlib.contextmanager
def restored_app_logger() -> Iterator[RecordCollector]:
    """Collect what comes to the logger of this process that Dask forwards to."""
    collector = RecordCollector()
    logger = logging.getLogger("app")
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)


def test_a_worker_that_is_killed_loses_nothing_and_the_next_one_joins(client: Any, tmp_path: Path) -> None:
    with attached(client) as (logs, collector):
        logs.set_level("DEBUG", "app")
        before = pids(client)
        client.submit(tasks.log_and_die, str(tmp_path / "died"), 1000, retries=2).exception()
        new = until(lambda: set(pids(client).values()) - set(before.values()), SECONDS, "the nanny's next worker")
        until(lambda: len(logs.ranks) == 2, SECONDS, "the next worker to join")
        logs.flush()
        died = {r.process for r in collector.records if r.name == "app"}
        assert len(died) == 1
        assert died < set(before.values())
        texts = [text for _, _, text in mine(collector)]
        assert sorted(t for t in texts if t.startswith("number")) == sorted(f"number {n}" for n in range(1000))
        assert sorted(t for t in texts if t.startswith("line")) == sorted(f"line {n}" for n in range(1000))
        collector.clear()
        on_each(client, tasks.log, logging.DEBUG, "details")
        logs.flush()
        assert [text for _, _, text in mine(collector)] == ["details"] * 2
        assert new <= {r.process for r in collector.records}


@pytest.mark.parametrize("relay", [False, True], ids=["directly", "relayed"])
def test_workers_that_join_later_are_covered_also_those_without_a_nanny(tmp_path: Path, relay: bool) -> None:
    with by_commands(tmp_path, workers=1) as (cluster, client), attached(client, relay) as (logs, collector):
        logs.set_level("DEBUG", "app")
        cluster.add("--no-nanny", "--name", "late")
        client.wait_for_workers(2, SECONDS)
        until(lambda: logs.ranks == (0, 1), SECONDS, "the late worker to join")
        on_each(client, tasks.log, logging.DEBUG, "details")
        on_each(client, tasks.say, "x")
        logs.flush()
        assert mine(collector) == sorted(
            (rank, stream, text)
            for rank in (0, 1)
            for stream, text in (("", "details"), ("", "logged x"), ("stdout", "printed x"), ("stdout", "echoed x"))
        )
        assert {r.coords.get("worker") for r in collector.records if r.rank == 1} == {"late"}  # type: ignore[attr-defined]  # records of the mesh
        logs.drain_and_stop()
        until(lambda: all_left(client), SECONDS, "both to leave")


def test_nothing_is_left_in_the_workers(client: Any) -> None:
    before = client.run(tasks.state)
    with attached(client) as (logs, collector):
        logs.set_level("DEBUG")
        logs.set_level("DEBUG", "distributed")
        on_each(client, tasks.say, "x")
        assert client.run(tasks.state) != before
    assert client.run(tasks.state) == before
    assert len(mine(collector)) == 6
    with attached(client) as (logs, collector):
        on_each(client, tasks.say, "again")
        logs.flush()
        assert len(mine(collector)) == 6


def test_what_was_said_before_it_detaches_is_shown(client: Any) -> None:
    with attached(client) as (_, collector):
        on_each(client, tasks.log_many, 5000)
    assert len(mine(collector)) == 2 * 5000


def test_attaching_again_is_the_same() -> None:
    with local_cluster(1) as client, attached(client) as (logs, first):
        second = RecordCollector()
        assert attach(client) is logs
        on_each(client, tasks.log, logging.INFO, "one")
        logs.flush()
        assert attach(client, [second]) is logs
        on_each(client, tasks.log, logging.INFO, "two")
        logs.flush()
        assert ([t for _, _, t in mine(first)], [t for _, _, t in mine(second)]) == (["one"], ["two"])


def test_workers_that_are_threads_of_this_process_are_left_alone() -> None:
    with local_cluster(2, processes=False) as client:
        before = logging.getLogger().handlers[:]
        with attached(client) as (logs, _):
            assert logging.getLogger().handlers == before
            assert logs.ranks == ()
        assert logging.getLogger().handlers == before


def test_a_silent_worker_is_named_by_a_flush_and_holds_up_no_end(client: Any) -> None:
    logs = attach(client, [RecordCollector()], relay=_relayed.get(client, False))
    pid = logs.stats()[1].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(FlushTimeout) as silent:
            logs.flush(timeout=0.5)
        assert silent.value.receipt.missing == (1,)
        began = time.monotonic()
        logs.drain_and_stop(timeout=1.0)
        assert time.monotonic() - began < 10.0
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: all_left(client), SECONDS, "both to leave")


def test_an_asynchronous_client_is_not_held_up() -> None:
    async def main() -> None:
        async with (
            distributed.LocalCluster(2, processes=True, dashboard_address=":0", asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            collector = RecordCollector()
            pid = min((await client.run(os.getpid)).values())
            os.kill(pid, signal.SIGSTOP)
            attaching = attach(client, [collector])
            for _ in range(20):  # the loop turns although a worker keeps everybody waiting
                await asyncio.sleep(0.01)
            assert not attaching.done()
            os.kill(pid, signal.SIGCONT)
            logs = await attaching
            await asyncio.to_thread(logs.set_mode, True, None, logging.INFO)
            await client.gather([client.submit(tasks.say, f"{number}", pure=False) for number in range(4)])
            await asyncio.to_thread(logs.flush)
            assert [text for _, _, text in mine(collector)].count("printed 3") == 1
            await asyncio.to_thread(logs.drain_and_stop)
            assert not any(state["threads"] for state in (await client.run(tasks.state)).values())

    asyncio.run(main())


FORGETFUL = """
import sys, time
from distributed import Client
from meshlog_handler.integrations.dask import attach
from tests.engines import dask_tasks as tasks
if __name__ == "__main__":
    client = Client(scheduler_file=sys.argv[1])
    attach(client)
    client.gather([client.submit(tasks.say, f"{n}", pure=False) for n in range(8)])
    if sys.argv[2] == "killed":
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_a_client_that_ends_without_a_word_leaves_the_workers_as_they_were(tmp_path: Path, end: str) -> None:
    with by_commands(tmp_path) as (cluster, client), tempfile.TemporaryDirectory(prefix="mlt-") as runs:
        before = client.run(tasks.state)
        environ = {**os.environ, "MESHLOG_RUN_DIR": runs}
        command = [sys.executable, "-c", FORGETFUL, cluster.file, end]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True) as other:
            assert other.stdout is not None
            if end == "killed":
                until(lambda: other.stdout.readline() == "ready\n", SECONDS)  # type: ignore[union-attr]  # seen above
                other.kill()
            shown, _ = other.communicate(timeout=SECONDS)
        if end == "ended":
            assert "[8 similar log lines] [ranks 0-1] printed 0..7" in shown
        until(lambda: client.run(tasks.state) == before, SECONDS, lambda: f"{client.run(tasks.state)} to be {before}")
        left = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins))
        assert [name for name in left if name.startswith("meshlog")] == []
        assert "Traceback" not in cluster.output()
