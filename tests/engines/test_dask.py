"""Dask: workers of a real cluster, started by the client or by commands, attached and detached again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import FlushTimeout, LoggingMeshClient
from meshlog_handler.client.relay import repeated_calls
from meshlog_handler.testing import RecordCollector

from ..process.procs import stop_process
from ..waiting import until
from .needed import need

distributed = need("distributed")

from meshlog_handler.integrations.dask import attach  # noqa: E402  # needs distributed
from meshlog_handler.integrations.dask import cluster as dask_cluster  # noqa: E402  # needs distributed
from meshlog_handler.integrations.dask.hosts import TunnelClient  # noqa: E402  # needs distributed

from . import dask_tasks as tasks  # noqa: E402  # needs distributed
from .dask_clusters import ROOT, SECONDS, ByCommands, by_commands, pids  # noqa: E402  # needs distributed

Client = distributed.Client


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByCommands]:
    """Two workers that are not children of this process. Every test leaves them unchanged: that is half of what it tests."""
    with by_commands(tmp_path_factory.mktemp("dask"), workers=2) as started:
        yield started


@pytest.fixture
def client(cluster: ByCommands) -> Iterator[Any]:
    with Client(scheduler_file=cluster.file) as started:
        started.wait_for_workers(2, SECONDS)
        before = started.run(tasks.state)
        yield started
        until(lambda: set(map(str, started.run(tasks.state).values())) == set(map(str, before.values())), SECONDS, "no trace")


each_way = pytest.mark.parametrize("relay", [False, True], ids=["directly", "relayed"])


@contextlib.contextmanager
def attached(client: Any, relay: bool = False) -> Iterator[tuple[LoggingMeshClient, RecordCollector]]:
    """Attach with a collector that gets each record at once; detach at the end."""
    collector = RecordCollector()
    logs = attach(client, [collector], relay=relay)
    try:
        logs.set_mode(True, None, logging.INFO)
        yield logs, collector
    finally:
        logs.drain_and_stop(SECONDS)


def on_each(client: Any, fn: Any, *args: Any) -> list[Any]:
    """Run a task on each worker; return the results."""
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    return list(client.gather([client.submit(fn, *args, workers=[each], pure=False) for each in workers]))


def mine(collector: RecordCollector) -> list[tuple[Any, ...]]:
    """Return the rank, stream and text of everything that tasks logged and printed."""
    return sorted(
        (r.rank, r.stream or "", r.getMessage())  # type: ignore[attr-defined]  # a record of the mesh
        for r in collector.records
        if "distributed." not in r.name + r.getMessage()  # on a busy machine Dask warns about that
    )


@each_way
def test_records_prints_and_subprocesses_arrive_once_with_rank_and_stream(client: Any, relay: bool) -> None:
    with attached(client, relay) as (logs, collector):
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


@each_way
@pytest.mark.parametrize("first_leaves", [False, True])
def test_workers_forward_to_the_client_that_stays_when_another_leaves(
    client: Any, cluster: ByCommands, relay: bool, first_leaves: bool
) -> None:
    collectors = RecordCollector(), RecordCollector()
    with Client(scheduler_file=cluster.file) as other:
        attachments = [attach(each, [to], relay=relay) for each, to in zip((client, other), collectors, strict=True)]
        leaves, stays = attachments if first_leaves else attachments[::-1]
        leaves.drain_and_stop(SECONDS)
        on_each(client, tasks.log, logging.WARNING, "stays")
        stays.flush()
        stays.drain_and_stop(SECONDS)
    assert [each.messages.count("stays") for each in collectors] == ([0, 2] if first_leaves else [2, 0])


def test_relays_use_no_thread_of_the_event_loops_executor(client: Any) -> None:
    client.run(tasks.use_executor_threads, 1, nanny=True)
    try:
        with attached(client, relay=True) as (logs, collector):
            on_each(client, tasks.log, logging.WARNING, "relayed")
            logs.flush()
            assert collector.messages.count("relayed") == 2
    finally:
        client.run(tasks.use_executor_threads, None, nanny=True)


@each_way
def test_dasks_own_record_reports_a_failing_task(client: Any, relay: bool) -> None:
    with attached(client, relay) as (logs, collector):
        assert isinstance(client.submit(tasks.fail, "boom").exception(), ValueError)
        logs.flush()
        [told] = [r for r in collector.records if "Compute Failed" in r.getMessage()]
        assert (told.name, told.levelno) == ("distributed.worker", logging.WARNING) or told.levelno == logging.ERROR
        assert "boom" in told.getMessage()
        assert told.stream is None  # type: ignore[attr-defined]  # a record of the mesh
        assert [r for r in collector.records if r.stream] == []  # type: ignore[attr-defined]  # as above


@each_way
def test_the_level_of_one_rank_can_be_changed(client: Any, relay: bool) -> None:
    with attached(client, relay) as (logs, collector):
        logs.set_level("DEBUG", "app", ranks=[1])
        on_each(client, tasks.log, logging.DEBUG, "details")
        logs.flush()
        assert mine(collector) == [(1, "", "details")]


def test_records_that_dask_itself_forwards_arrive_once(client: Any) -> None:
    client.forward_logging("app")
    with attached(client) as (logs, collector), forwarded() as twice:
        on_each(client, tasks.say_by_dask, "x")
        on_each(client, tasks.say, "x")
        logs.flush()
        said = sorted(text for _, _, text in mine(collector) if "warn" not in text)
        assert said == [f"{verb} x" for verb in ("dask printed", "echoed", "logged", "printed") for _ in range(2)]
        assert sum("UserWarning: dask warned x" in text for text in collector.messages) == 2
        assert twice.records == []
    with forwarded() as again:
        on_each(client, tasks.log, logging.WARNING, "y")
        again.wait_for(bool)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        on_each(client, tasks.print_by_dask, "y")
        until(lambda: "dask printed y" in printed.getvalue(), what="Dask to print here again")
    client.unforward_logging("app")


@contextlib.contextmanager
def forwarded() -> Iterator[RecordCollector]:
    """Collect the records of the logger in this process to which Dask forwards."""
    collector = RecordCollector()
    logger = logging.getLogger("app")
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)


@each_way
def test_a_killed_worker_loses_nothing_and_its_replacement_joins(client: Any, relay: bool, tmp_path: Path) -> None:
    with attached(client, relay) as (logs, collector):
        logs.set_level("DEBUG", "app")
        before = pids(client)
        client.submit(tasks.log_and_die, str(tmp_path / "died"), 1000).result(SECONDS)
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


def test_what_a_killed_nanny_has_not_forwarded_arrives_when_the_next_worker_joins(cluster: ByCommands, client: Any) -> None:
    with contextlib.ExitStack() as later, attached(client, relay=True) as (logs, collector):
        nanny = cluster.start_worker("--name", "ends")
        until(lambda: len(logs.ranks) == 3, SECONDS, "the worker to join")
        task = client.submit(tasks.log_and_kill_nanny, 1000, workers=["ends"], pure=False)
        assert nanny.wait(SECONDS) == -signal.SIGKILL
        task.cancel()
        later.enter_context(cluster.one_more("--name", "next"))
        until(lambda: 3 in logs.ranks, SECONDS, "the next worker to join")
        expected = sorted(f"number {number}" for number in range(1000))
        until(lambda: sorted(text for text in collector.messages if text in expected) == expected, SECONDS, "all records")


def numbers_of(collector: RecordCollector) -> list[str]:
    """Return the numbers that tasks logged."""
    return sorted(text for text in collector.messages if text.startswith("number "))


def test_what_a_nanny_that_ends_could_not_forward_arrives_when_the_next_worker_joins(
    cluster: ByCommands, client: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with contextlib.ExitStack() as later, attached(client, relay=True) as (logs, collector):
        nanny = cluster.start_worker("--name", "ends")
        until(lambda: len(logs.ranks) == 3, SECONDS, "the worker to join")
        task = client.submit(tasks.log_when, str(gate), 5000, workers=["ends"], pure=False)
        until(Path(f"{gate}.waits").exists, SECONDS, "the task to start")
        stop_process(cluster.scheduler)  # from now on, nothing is carried
        try:
            gate.touch()
            until(Path(f"{gate}.logged").exists, SECONDS, "the task to log")
            nanny.terminate()
            assert nanny.wait(SECONDS) is not None
        finally:
            os.kill(cluster.scheduler, signal.SIGCONT)
        task.cancel()
        later.enter_context(cluster.one_more("--name", "next"))
        until(lambda: 3 in logs.ranks, SECONDS, "the next worker to join")
        until(lambda: len(numbers_of(collector)) >= 5000, SECONDS, "all records")
        assert not logs.flush(SECONDS).missing
        assert numbers_of(collector) == sorted(f"number {number}" for number in range(5000))


def test_messages_that_dask_loses_are_sent_again(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_calls, "_PAUSE_SEC", 0.0)
    with attached(client, relay=True) as (logs, collector):
        for _ in range(5):
            until(lambda: client.run_on_scheduler(tasks.close_broadcasts), SECONDS, "the tunnels to wait for records")
            on_each(client, tasks.log_many, 100)
            client.run_on_scheduler(tasks.close_broadcasts)
        assert not logs.flush(SECONDS).missing
        assert numbers_of(collector) == sorted(f"number {number}" for number in range(100) for _ in range(10))
        assert [text for text in collector.messages if "is gone" in text] == []


def test_a_relay_whose_tunnel_has_ended_is_replaced_when_the_next_worker_of_its_nanny_joins(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tunnels: list[TunnelClient] = []

    class Known(TunnelClient):
        def __init__(self, *args: Any, **fields: Any) -> None:
            super().__init__(*args, **fields)
            tunnels.append(self)

    monkeypatch.setattr(dask_cluster, "TunnelClient", Known)
    with attached(client, relay=True) as (logs, collector):
        cut = tunnels[0]
        cut.cut()
        workers = client.scheduler_info(n_workers=-1)["workers"].items()
        below = [address for address, worker in workers if worker["nanny"] == cut._server]
        task = client.submit(tasks.log_and_die, str(tmp_path / "died"), 1000, workers=below)
        until(lambda: len(numbers_of(collector)) >= 1000, SECONDS, "all records")
        task.cancel()
        until(lambda: len(logs.ranks) == 2, SECONDS, "the next worker to join")
        on_each(client, tasks.log, logging.WARNING, "after")
        assert not logs.flush(SECONDS).missing
        assert numbers_of(collector) == sorted(f"number {number}" for number in range(1000))
        assert collector.messages.count("after") == 2
        assert len(tunnels) == 3


@each_way
def test_workers_that_start_later_join_also_without_a_nanny(cluster: ByCommands, client: Any, relay: bool) -> None:
    with attached(client, relay) as (logs, collector):
        logs.set_level("DEBUG", "app")
        with cluster.one_more("--no-nanny", "--name", "late"):
            client.wait_for_workers(3, SECONDS)
            until(lambda: logs.ranks == (0, 1, 2), SECONDS, "the late worker to join")
            logs.flush()  # behind a relay, it has the level then
            late = client.submit(tasks.log, logging.DEBUG, "details", workers=["late"])
            client.gather([late, client.submit(tasks.say, "x", workers=["late"])])
            logs.flush()
            assert mine(collector) == [
                (2, "", "details"),
                (2, "", "logged x"),
                (2, "stdout", "echoed x"),
                (2, "stdout", "printed x"),
            ]
            assert {r.coords.get("worker") for r in collector.records if r.rank == 2} == {"late"}  # type: ignore[attr-defined]  # records of the mesh
            logs.drain_and_stop(SECONDS)
            until(lambda: not any(state["threads"] for state in client.run(tasks.state).values()), SECONDS, "all to leave")
    until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2, SECONDS, "the late worker to go")


@each_way
def test_detached_workers_are_unchanged_and_can_be_attached_again(client: Any, relay: bool) -> None:
    before = client.run(tasks.state)
    for text in ("once", "twice"):
        with attached(client, relay) as (logs, collector):
            logs.set_level("DEBUG")
            logs.set_level("DEBUG", "distributed")
            on_each(client, tasks.say, text)
            assert client.run(tasks.state) != before
        assert client.run(tasks.state) == before
        assert len(mine(collector)) == 6


@each_way
def test_detaching_shows_what_was_logged_before(client: Any, relay: bool) -> None:
    with attached(client, relay) as (_, collector):
        on_each(client, tasks.log_many, 5000)
    assert len(mine(collector)) == 2 * 5000


def test_attaching_again_returns_the_same_client(client: Any) -> None:
    with attached(client) as (logs, first):
        second = RecordCollector()
        assert attach(client) is logs
        on_each(client, tasks.log, logging.INFO, "one")
        logs.flush()
        assert attach(client, [second]) is logs
        on_each(client, tasks.log, logging.INFO, "two")
        logs.flush()
        assert ([t for _, _, t in mine(first)], [t for _, _, t in mine(second)]) == (["one"] * 2, ["two"] * 2)


def test_workers_that_are_threads_of_this_process_are_not_changed() -> None:
    with (
        distributed.LocalCluster(2, processes=False, dashboard_address=":0") as threads,
        Client(threads) as client,
    ):
        before = logging.getLogger().handlers[:]
        with attached(client) as (logs, _):
            assert logging.getLogger().handlers == before
            assert logs.ranks == ()
        assert logging.getLogger().handlers == before


@each_way
def test_a_flush_names_a_silent_worker_and_detaching_does_not_wait_for_it(client: Any, relay: bool) -> None:
    logs = attach(client, [RecordCollector()], relay=relay)
    pid = logs.stats()[1].pid
    stop_process(pid)
    try:
        with pytest.raises(FlushTimeout) as silent:
            logs.flush(timeout=0.5)
        assert silent.value.receipt.missing == (1,)
        began = time.monotonic()
        logs.drain_and_stop(timeout=1.0)
        assert time.monotonic() - began < 20.0
    finally:
        os.kill(pid, signal.SIGCONT)


def test_attaching_does_not_block_an_asynchronous_client(cluster: ByCommands) -> None:
    async def main() -> None:
        async with Client(scheduler_file=cluster.file, asynchronous=True) as client:
            collector = RecordCollector()
            before = await client.run(tasks.state)
            pid = min((await client.run(os.getpid)).values())
            stop_process(pid)
            attaching = attach(client, [collector])
            for _ in range(20):  # the event loop keeps running although one worker does not respond
                await asyncio.sleep(0.01)
            assert not attaching.done()
            os.kill(pid, signal.SIGCONT)
            logs = await attaching
            await asyncio.to_thread(logs.set_mode, True, None, logging.INFO)
            await client.gather([client.submit(tasks.say, f"{number}", pure=False) for number in range(4)])
            await asyncio.to_thread(logs.flush)
            assert [text for _, _, text in mine(collector)].count("printed 3") == 1
            await asyncio.to_thread(logs.drain_and_stop)
            assert await client.run(tasks.state) == before

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
def test_a_client_that_ends_without_detaching_leaves_the_workers_unchanged(cluster: ByCommands, client: Any, end: str) -> None:
    before, pipe = client.run(tasks.state), subprocess.PIPE
    with tempfile.TemporaryDirectory(prefix="mlt-") as runs:
        command, environ = [sys.executable, "-c", FORGETFUL, cluster.file, end], {**os.environ, "MESHLOG_RUN_DIR": runs}
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True) as other:
            assert other.stdout is not None
            if end == "killed":
                until(lambda: other.stdout.readline() == "ready\n", SECONDS)  # type: ignore[union-attr]  # checked above
                other.kill()
            shown, _ = other.communicate(timeout=SECONDS)
    if end == "ended":
        assert "[8 similar log lines] [ranks 0-1] printed 0..7" in shown
    until(lambda: client.run(tasks.state) == before, SECONDS, lambda: f"{client.run(tasks.state)} to be {before}")
    until(lambda: not client.run_on_scheduler(tasks.plugins), SECONDS, "the scheduler to forget the plug-in")
