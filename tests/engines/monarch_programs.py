"""Programs on a real Monarch mesh: ``python -m tests.engines.monarch_programs NAME [relay]``.

Each runs in a separate process: a Monarch client keeps its host, threads and sockets until the process ends. With ``relay``,
all procs join through one relay, as on another machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import monarch.actor
import pytest
from monarch.actor import Actor, ActorError, current_rank, endpoint, shutdown_context, this_host, this_proc
from monarch.config import configure

from meshlog_handler import ConfigRefused, LoggingMeshClient
from meshlog_handler.client.relay import repeated_calls
from meshlog_handler.integrations.monarch import attach
from meshlog_handler.integrations.monarch import relays as monarch_relays
from tests.engines.commanded import DEADLINE, obey
from tests.process.procs import stop_process
from tests.waiting import until

COUNT = 10_000
PROCS = 4


def our_threads() -> list[str]:
    """Return the names of our threads that run in this process."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("meshlog"))


class Seen(logging.Handler):
    """Keeps the records that are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.records.append(record)

    def texts(self, rank: int | None = None, stream: str | None = None) -> list[str]:
        """Return what one rank or all ranks logged, or wrote to `stream`."""
        return [
            record.getMessage() for record in self.records if record.name == (stream or "work") and rank in (None, record.rank)
        ]

    def notes(self) -> list[str]:
        """Return the records of the client itself."""
        return [record.getMessage() for record in self.records if record.name == "meshlog"]


class Worker(Actor):
    """The user's actor."""

    @endpoint
    def pid(self) -> int:
        """Return the pid."""
        return os.getpid()

    @endpoint
    def work(self, step: int) -> None:
        """Log and print in every supported way."""
        log = logging.getLogger("work")
        log.info("step %d of rank %d", step, current_rank().rank, extra={"loss": 0.5})
        log.debug("details of step %d", step)
        print("printed", step)
        os.write(2, b"written\n")
        subprocess.run(["echo", "echoed"], check=True)
        try:
            1 / 0  # noqa: B018  # this must raise
        except ZeroDivisionError:
            log.exception("failed")

    @endpoint
    def say(self, text: str) -> None:
        """Log and print one line each."""
        logging.getLogger("work").warning("logged %s", text)
        print("printed", text)

    @endpoint
    def end(self) -> None:
        """Log many records, then kill this process at once."""
        log = logging.getLogger("work")
        for number in range(COUNT):
            log.info("number %d", number)
        os.kill(os.getpid(), signal.SIGKILL)

    @endpoint
    def count(self, numbers: int, pause: float) -> None:
        """Log numbers, with a pause after each."""
        for number in range(numbers):
            logging.getLogger("work").info("number %d", number)
            time.sleep(pause)

    @endpoint
    def state(self) -> dict[str, Any]:
        """Return the state of this process that an attached client changes."""
        root = logging.getLogger()
        return {
            "descriptors": [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)],
            "handlers": [repr(handler) for handler in root.handlers],
            "level": root.level,
            "threads": our_threads(),
            "buffering": sys.stdout.line_buffering,
        }

    @endpoint
    def attach_here(self, proc_mesh: Any) -> list[str]:
        """Attach from an actor."""
        seen = Seen()
        logs = attach(proc_mesh, [seen]).get(60)
        logs.set_mode(True, None, logging.INFO)
        proc_mesh.spawn("others", Worker).say.call("from afar").get()
        logs.flush()
        logs.drain_and_stop()
        return sorted(seen.texts())


class Obeying(Actor):
    """Carries out the orders of a test (see `commanded`)."""

    @endpoint
    def obey(self, place: str) -> None:
        """Carry out orders until told to end."""
        obey(place)


@contextmanager
def spawned(count: int) -> Iterator[Any]:
    """Spawn procs; at the end, stop them and everything else of Monarch's that can be stopped. Once per process."""
    monarch.actor.unhandled_fault_hook = lambda failure: None
    procs = this_host().spawn_procs(per_host={"gpus": count})
    try:
        yield procs
    finally:
        procs.stop().get(DEADLINE)
        shutdown_context().get(DEADLINE)


def mesh(**per_host: int) -> tuple[Any, Any]:
    """Return procs, and workers on them."""
    procs = this_host().spawn_procs(per_host=per_host or {"gpus": PROCS})
    return procs, procs.spawn("workers", Worker)


RELAY = sys.argv[2:] == ["relay"]


async def attached(procs: Any, window: float | None = None) -> tuple[LoggingMeshClient, Seen]:
    """Attach; return the client, and the records it shows."""
    seen = Seen()
    logs = await attach(procs, [seen], relay=RELAY)
    logs.set_mode(True, window, logging.INFO)
    return logs, seen


async def values(answers: Awaitable[Any]) -> list[Any]:
    """Return the results of a call, in rank order."""
    return [value for _, value in await answers]


async def records() -> None:
    """Records arrive as records, with the mesh's own ranks and coordinates; so do captured lines."""
    procs, workers = mesh(hosts_of_ours=2, gpus=2)
    logs, seen = await attached(procs)
    await workers.work.call(7)
    receipt = logs.flush()
    assert receipt.acked == (0, 1, 2, 3), receipt
    assert (receipt.missing, receipt.dead, receipt.dropped) == ((), (), 0), receipt
    for rank in range(PROCS):
        assert seen.texts(rank) == [f"step 7 of rank {rank}", "failed"], [(r.rank, r.getMessage()) for r in seen.records]
        assert sorted(seen.texts(rank, "stdout")) == ["echoed", "printed 7"], seen.texts(rank, "stdout")
        assert seen.texts(rank, "stderr") == ["written"]
        record = next(each for each in seen.records if each.rank == rank and each.name == "work")
        assert record.coords == {"hosts_of_ours": rank // 2, "gpus": rank % 2}
        assert (record.msg, record.args, record.loss) == ("step %d of rank %d", (7, rank), 0.5)
        assert "Worker workers" in record.actor_prefix
        assert record.local_rank == rank
        failed = next(each for each in seen.records if each.rank == rank and each.msg == "failed")
        assert "ZeroDivisionError" in failed.exc_text
    assert seen.notes() == []
    logs.drain_and_stop()
    await procs.stop()


async def grouping() -> None:
    """What all ranks log and print becomes one line, although Monarch puts a different actor's name in front of each."""
    procs, workers = mesh()
    logs, seen = await attached(procs, window=60.0)
    await workers.say.call("the same")
    logs.flush()
    logs.drain_and_stop()
    counted = sorted((record.count, record.getMessage()) for record in seen.records if hasattr(record, "count"))
    # A warning is shown at once the first time, and counted afterwards.
    said = [(record.getMessage(), record.rank, getattr(record, "ranks", None)) for record in seen.records]
    assert [count for count, _ in counted] == [3, 4], said
    await procs.stop()


async def control() -> None:
    """Levels change by rank, configurations by transaction."""
    procs, workers = mesh()
    logs, seen = await attached(procs)
    logs.set_level("DEBUG", "work", ranks=[3])
    await workers.work.call(1)
    logs.flush()
    assert [rank for rank in range(PROCS) if "details of step 1" in seen.texts(rank)] == [3]
    before = await values(workers.state.call())
    with pytest.raises(ConfigRefused) as refused:
        logs.configure({"version": 1, "root": {"level": "NONE SUCH"}})
    assert refused.value.ranks == (0, 1, 2, 3)
    assert await values(workers.state.call()) == before
    logs.configure({"version": 1, "root": {"level": "WARNING"}}, ranks=[0, 1])
    seen.records.clear()
    await workers.work.call(2)
    logs.flush(ranks=[0, 1, 2, 3])
    assert [seen.texts(rank)[0] for rank in range(PROCS)] == ["failed", "failed", "step 2 of rank 2", "step 2 of rank 3"]
    logs.drain_and_stop()
    await procs.stop()


async def killed() -> None:
    """A killed proc loses nothing that it has logged, and delays nothing; Monarch reports its death later."""
    failures: list[str] = []
    monarch.actor.unhandled_fault_hook = lambda failure: failures.append(failure.mesh_name)
    procs, workers = mesh()
    logs, seen = await attached(procs)
    pid = (await values(workers.pid.call()))[2]
    workers.slice(gpus=2).end.broadcast()
    until(lambda: not logs.stats()[2].alive, 60, "the client to take leave of rank 2")
    receipt = logs.flush(5.0)  # below a relay, the report of an end may arrive before the last records
    assert seen.texts(2) == [f"number {number}" for number in range(COUNT)]
    assert (receipt.acked, receipt.dead, receipt.missing) == ((0, 1, 3), (2,), ()), receipt
    assert receipt.elapsed < 2.0
    logs.set_level("DEBUG", ranks=[0])
    await workers.slice(gpus=slice(0, 2)).say.call("on")
    logs.flush()
    assert seen.texts(0)[-1] == seen.texts(1)[-1] == "logged on"
    until(seen.notes, 30, "Monarch's word on the end of rank 2")
    assert seen.notes()[0].startswith(f"rank 2 (pid {pid}) ended by SIGKILL; its last lines:\n"), seen.notes()
    assert not any(name.startswith("meshlog") for name in failures), failures
    began = time.monotonic()
    logs.drain_and_stop()
    assert time.monotonic() - began < 5.0
    await workers.slice(gpus=0).say.call("as before")


async def killed_in_a_part() -> None:
    """An exit report names the rank within the attached part of the mesh."""
    monarch.actor.unhandled_fault_hook = lambda failure: None
    procs, _ = mesh()
    logs, seen = await attached(procs.slice(gpus=slice(2, 4)))
    pid = logs.stats()[1].pid
    os.kill(pid, signal.SIGKILL)
    until(seen.notes, 30, "Monarch's word on the end")
    assert seen.notes()[0].startswith(f"rank 1 (pid {pid}) ended by SIGKILL"), seen.notes()
    logs.drain_and_stop()


async def killed_at_the_end() -> None:
    """A proc killed a moment ago, whose death Monarch has not noticed yet, does not delay detaching."""
    monarch.actor.unhandled_fault_hook = lambda failure: None
    procs, workers = mesh()
    logs, _ = await attached(procs)
    os.kill(logs.stats()[1].pid, signal.SIGKILL)
    began = time.monotonic()
    logs.drain_and_stop()
    print("detached in", time.monotonic() - began)
    assert time.monotonic() - began < 8.0
    state = await values(workers.slice(gpus=slice(2, 4)).state.call())
    assert [each["threads"] for each in state] == [[], []]


def relays(logs: LoggingMeshClient) -> list[int]:
    """Return the pids of the relays that are connected."""
    return [peer.pid for peer in tuple(logs.client._loop.reactor.peers) if peer.relays]


async def relay_killed() -> None:
    """A relay that is killed while the procs log is replaced; every record arrives once."""

    def kill(pid: int, logs: LoggingMeshClient) -> None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: relays(logs) not in ([], [pid]), DEADLINE, "another relay")

    await all_arrive_after(kill)


async def relay_silent() -> None:
    """A relay that has not answered for long is reached again or replaced when it answers; every record arrives once."""
    monarch_relays._ANSWER_SEC = 3.0  # type: ignore[misc]  # else the test would take minutes
    repeated_calls.REPEAT_SEC = 1.0  # type: ignore[misc]  # as above

    def stop(pid: int, logs: LoggingMeshClient) -> None:
        stop_process(pid)
        try:
            until(lambda: relays(logs) == [], DEADLINE, "the end of its tunnel")
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: relays(logs) != [], DEADLINE, "another tunnel")

    await all_arrive_after(stop)


async def all_arrive_after(fault: Callable[[int, LoggingMeshClient], None]) -> None:
    """Let two procs log while a fault happens to their relay, whose pid `fault` gets. Every record must arrive once."""
    monarch.actor.unhandled_fault_hook = lambda failure: None
    procs, workers = mesh(gpus=2)
    logs, seen = await attached(procs)
    counted = workers.count.call(500, 0.02)
    until(lambda: min(len(seen.texts(rank)) for rank in range(2)) > 100, DEADLINE, "records of both ranks")
    (pid,) = relays(logs)
    began = time.monotonic()
    fault(pid, logs)
    print("another one after", time.monotonic() - began)
    await counted
    expected = sorted(f"number {number}" for number in range(500))
    until(lambda: all(len(seen.texts(rank)) >= 500 for rank in range(2)), DEADLINE, "all records")
    assert [sorted(seen.texts(rank)) for rank in range(2)] == [expected] * 2
    await workers.say.call("afterwards")
    receipt = logs.flush()
    assert (receipt.acked, receipt.missing, receipt.dropped) == ((0, 1), (), 0), receipt
    assert [seen.texts(rank)[-1] for rank in range(2)] == ["logged afterwards"] * 2
    began = time.monotonic()
    logs.drain_and_stop()
    print("detached in", time.monotonic() - began)
    await procs.stop()


async def broken() -> None:
    """Attaching to a mesh in which a proc has died fails, and leaves the other procs as they were."""
    monarch.actor.unhandled_fault_hook = lambda failure: None
    procs, workers = mesh()
    others = workers.slice(gpus=slice(1, PROCS))
    before = await values(others.state.call())
    os.kill((await values(workers.pid.call()))[0], signal.SIGKILL)
    with pytest.raises(ActorError, match="error spawning actor mesh"):  # after Monarch's own 30 seconds
        await attach(procs, [Seen()])
    assert await values(others.state.call()) == before
    until(lambda: not our_threads(), what="the end of the threads that brought the results")


async def detaching() -> None:
    """After detaching, procs are as they were, their own handlers have worked all the time, and a client can attach again."""
    with tempfile.NamedTemporaryFile("r") as file:
        path = file.name

        def bootstrap() -> None:
            logging.basicConfig(handlers=[logging.FileHandler(path), logging.StreamHandler()], format="%(message)s")

        procs = this_host().spawn_procs(per_host={"gpus": 2}, bootstrap=bootstrap)
        workers = procs.spawn("workers", Worker)
        before = await values(workers.state.call())
        for turn in range(2):
            logs, seen = await attached(procs)
            logs.set_level("DEBUG")
            during = await values(workers.state.call())
            assert during[0]["level"] == logging.DEBUG
            assert ["FileHandler" in handler for handler in during[0]["handlers"]] == [True, False], during
            assert during[0]["descriptors"] != before[0]["descriptors"]
            await workers.say.call(f"in turn {turn}")
            logs.drain_and_stop()
            assert sorted(seen.texts()) == [f"logged in turn {turn}"] * 2, seen.texts()
            assert sorted(seen.texts(stream="stdout")) == [f"printed in turn {turn}"] * 2
            assert await values(workers.state.call()) == before
        await workers.say.call("afterwards")
        assert sorted(line[line.index("logged") :] for line in file.read().splitlines() if "logged" in line) == [
            "logged afterwards",
            "logged afterwards",
            "logged in turn 0",
            "logged in turn 0",
            "logged in turn 1",
            "logged in turn 1",
        ]
    await procs.stop()


async def another() -> None:
    """A client that attaches later takes over the ranks it names. The first client's detaching does not disturb it."""
    procs = this_host().spawn_procs(per_host={"gpus": PROCS}, bootstrap=logging.basicConfig)
    workers = procs.spawn("workers", Worker)
    before = await values(workers.state.call())
    first, seen_first = await attached(procs)
    part = procs.slice(gpus=slice(1, 3))
    second, seen_second = await attached(part)
    await workers.say.call("to whom")
    first.flush()
    second.flush()
    assert [record.coords for record in seen_first.records if record.stream is None and record.name == "work"] in (
        [{"gpus": 0}, {"gpus": 3}],
        [{"gpus": 3}, {"gpus": 0}],
    )
    assert sorted(record.rank for record in seen_second.records if record.stream is None) == [0, 1]
    first.drain_and_stop()
    await workers.say.call("once more")
    second.flush()
    assert seen_second.texts(1) == ["logged to whom", "logged once more"]
    assert seen_second.texts(stream="stderr") == []  # no console handler was added again
    second.drain_and_stop()
    assert await values(workers.state.call()) == before
    await procs.stop()


async def stopping() -> None:
    """When an attached mesh is stopped, its last lines arrive."""
    procs, workers = mesh()
    logs, seen = await attached(procs)
    await workers.work.call(3)
    await procs.stop()
    until(lambda: not any(rank.alive for rank in logs.stats().values()), 30, "the procs to end")
    logs.flush()
    for rank in range(PROCS):
        assert seen.texts(rank) == [f"step 3 of rank {rank}", "failed"]
    assert seen.notes() == [], seen.notes()
    began = time.monotonic()
    logs.drain_and_stop()
    print("detached in", time.monotonic() - began)
    assert time.monotonic() - began < 5.0


async def leaving() -> None:
    """A program that ends without detaching shows everything on its console."""
    procs, workers = mesh()
    globals()["kept"] = await attach(procs, relay=RELAY)
    await workers.say.call("last")


async def from_an_actor() -> None:
    """An actor can attach."""
    procs, _ = mesh()
    local = this_proc().spawn("attacher", Worker)
    assert await local.attach_here.call_one(procs) == ["logged from afar"] * PROCS
    await procs.stop()


async def forwarding() -> None:
    """Monarch forwards prints before attaching and after detaching; meanwhile we show them. This console is the evidence."""
    configure(enable_log_forwarding=True)
    procs, workers = mesh()
    await procs.logging_option(stream_to_client=True, aggregate_window_sec=None)
    await workers.say.call("before")
    logs = await attach(procs)
    logs.set_mode(True, None, logging.INFO)
    await workers.say.call("during")
    logs.drain_and_stop()
    await workers.say.call("after")
    await procs.stop()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]]())
    print("done")
