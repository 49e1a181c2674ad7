"""The client is killed: its workers continue, write warnings to their own stderr, and end. The next client cleans up."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meshlog_handler import LogClient
from tests.waiting import until

from . import orphans
from .procs import DEADLINE, join_all, started, stop_process

WORKERS = 8


class Victim(NamedTuple):
    """A client in another process."""

    address: str
    pid: int
    proc: Any

    @property
    def directory(self) -> Path:
        """The run directory of the client."""
        return Path(self.address.removeprefix("meshlog://").partition("#")[0]).parent

    def kill(self) -> None:
        """Kill the client with SIGKILL, and wait until it has ended."""
        self.proc.kill()
        join_all([self.proc])


@contextmanager
def victim() -> Iterator[Victim]:
    """Yield a client that runs in another process; end it if it still runs."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    with mine, theirs, started("spawn", orphans.run_client, [(theirs,)]) as procs:
        assert mine.poll(DEADLINE)
        pid = procs[0].pid
        assert pid is not None
        yield Victim(mine.recv(), pid, procs[0])
        mine.send("end")
        join_all(procs)


def clear_up() -> None:
    """Start and stop a client: it removes the run directories of dead clients."""
    with LogClient():
        pass


def stands_still(tallies: list[memoryview[float]]) -> bool:
    """Tell whether no worker logs for a while."""
    before = [tally[0] for tally in tallies]
    time.sleep(0.3)
    return before == [tally[0] for tally in tallies]


# README, "What is guaranteed": Nothing hangs.
@pytest.mark.parametrize("stopped_first", [False, True], ids=["while it reads", "while every journal is full"])
def test_workers_survive_a_client_that_is_killed_under_load(stopped_first: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gone = context.Event()
    tallies = orphans.tallies(WORKERS)
    with victim() as client:
        calls = [(client.address, str(tmp_path), f"worker {number}", gone, tally) for number, tally in enumerate(tallies)]
        with started("fork", orphans.work, calls) as procs:
            until(lambda: all(tally[0] > 1000 for tally in tallies), DEADLINE, "every worker to be at work")
            if stopped_first:
                stop_process(client.pid)
                until(lambda: stands_still(tallies), DEADLINE, "every worker to wait for room")
            client.kill()
            gone.set()
            ended: dict[Any, float] = {}

            def all_ended() -> bool:
                ended.update((proc, time.time()) for proc in procs if proc not in ended and not proc.is_alive())
                return len(ended) == WORKERS

            until(all_ended, DEADLINE, "all workers to end")
            assert {proc.exitcode for proc in procs} == {0}
            for proc, (_, longest, finished) in zip(procs, tallies, strict=True):
                assert finished, "it logged all it wanted to"
                assert ended[proc] - finished < 5
                assert longest < 5, "no call waited for long"
                assert longest > 0.25 or not stopped_first, "it had to wait for room"
        clear_up()
        assert not client.directory.exists()
    for number in range(WORKERS):
        complaints = (tmp_path / f"worker {number}.stderr").read_text()
        assert f"WARNING orphan: late worker {number}\n" in complaints
        assert "early" not in complaints, "the client had that"
        assert "under load" not in complaints
        assert complaints.count("the client that shows the logs is gone; the last records are kept in") == 1
        assert str(client.directory) in complaints
        assert complaints.count("\n") == 2
        assert (tmp_path / f"worker {number}.stdout").read_text() == f"printed worker {number}\n"


def test_workers_survive_a_client_that_was_stopped_and_show_their_own_logs(tmp_path: Path) -> None:
    gone = multiprocessing.get_context("fork").Event()
    (tally,) = orphans.tallies(1)
    client = LogClient(logging.NullHandler()).start()
    with started("fork", orphans.work, [(client.address, str(tmp_path), "worker", gone, tally)]) as procs:
        until(lambda: tally[0] > 0, DEADLINE, "the worker to be at work")
        client.stop()
        gone.set()
        assert join_all(procs) == [0]
    # The worker has no handler; the last resort of logging shows WARNING and above.
    assert (tmp_path / "worker.stderr").read_text() == "late worker\n"
    assert (tmp_path / "worker.stdout").read_text() == "printed worker\n"


def test_the_run_directory_of_a_dead_client_is_removed_after_its_last_worker_has_ended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gone = context.Event()
    (tally,) = orphans.tallies(1)
    with victim() as living, victim() as dead:
        with started("fork", orphans.work, [(dead.address, str(tmp_path), "worker", gone, tally)]) as procs:
            until(lambda: tally[0] > 0, DEADLINE, "the worker to be at work")
            clear_up()
            assert (living.directory / "client.sock").exists()
            assert (dead.directory / "client.sock").exists(), "it lives"
            dead.kill()
            clear_up()
            assert any(".journal" in name for name in os.listdir(dead.directory)), "its worker lives"
            gone.set()
            assert join_all(procs) == [0]
        clear_up()
        assert not dead.directory.exists()
        assert (living.directory / "client.sock").exists()
    assert not living.directory.exists(), "its owner removed it"
