"""After a flush, all earlier records are shown, or the ranks that did not reply are named; a flush always ends in time."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from typing import NamedTuple

import pytest

from meshlog_handler import ClosedError, FlushTimeout, LogClient
from meshlog_handler.testing import CollectedLogs, RecordCollector, collected

from . import workers
from .procs import DEADLINE, join_all, started, stop_process

WORKERS = 8


class Mesh(NamedTuple):
    """Workers by rank. Each has joined and logged once, and waits for `go`."""

    logs: CollectedLogs
    by_rank: dict[int, BaseProcess]
    go: Semaphore
    done: Semaphore

    def stop(self, rank: int) -> None:
        """Stop a worker with SIGSTOP, and return when it has stopped."""
        pid = self.by_rank[rank].pid
        assert pid is not None
        stop_process(pid)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a worker."""
        pid = self.by_rank[rank].pid
        assert pid is not None
        os.kill(pid, number)


@contextmanager
def mesh(count: int = WORKERS, goes: int = 1) -> Iterator[Mesh]:
    """Yield workers that wait. At the end, let them end."""
    context = multiprocessing.get_context("fork")
    ready, go, done = context.Semaphore(0), context.Semaphore(0), context.Semaphore(0)
    with collected() as logs, started("fork", workers.log_at_each_go, [(logs.address, ready, go, done, goes)] * count) as procs:
        for _ in procs:
            assert ready.acquire(timeout=DEADLINE)
        logs.flush()
        by_pid = {proc.pid: proc for proc in procs}
        yield Mesh(logs, {rank: by_pid[counts.pid] for rank, counts in logs.client.stats().items()}, go, done)
        for _ in range(count * goes):
            go.release()
        join_all(procs)


def test_a_receipt_lists_all_ranks_if_all_acknowledge_the_flush() -> None:
    with mesh() as m:
        receipts = [m.logs.flush(timeout=DEADLINE) for _ in range(2)]
        assert m.logs.messages == ["early"] * WORKERS
    for receipt in receipts:
        assert (receipt.acked, receipt.missing, receipt.dead, receipt.dropped) == (tuple(range(WORKERS)), (), (), 0)
    assert receipts[1].version == receipts[0].version + 1


# README, "What is guaranteed": Nothing hangs, A flush has a receipt.
def test_a_flush_names_a_stopped_rank_in_time_and_the_resumed_rank_acknowledges_the_next_flush() -> None:
    with mesh() as m:
        m.stop(3)
        begun = time.monotonic()
        with pytest.raises(FlushTimeout, match=r"7 of 8 answered, missing rank 3\b") as caught:
            m.logs.flush(timeout=2)
        assert 1.9 < time.monotonic() - begun < 2.5
        assert isinstance(caught.value, TimeoutError)
        receipt = caught.value.receipt
        assert (receipt.missing, receipt.acked) == ((3,), (0, 1, 2, 4, 5, 6, 7))
        m.signal(3, signal.SIGCONT)
        # The late acknowledgement of the first flush must not count for the next flush.
        for _ in range(WORKERS):
            m.go.release()
            assert m.done.acquire(timeout=DEADLINE)
        assert m.logs.flush(timeout=DEADLINE).missing == ()
        assert m.logs.messages.count("late 0") == WORKERS


@pytest.mark.parametrize("stopped", [(), (5,)], ids=["all answer", "one is silent"])
def test_ten_concurrent_flushes_all_end(stopped: tuple[int, ...]) -> None:
    with mesh() as m, ThreadPoolExecutor(10) as pool:
        for rank in stopped:
            m.stop(rank)
        together = threading.Barrier(10)

        def flush() -> tuple[int, tuple[int, ...]]:
            together.wait(DEADLINE)
            try:
                receipt = m.logs.flush(timeout=2 if stopped else DEADLINE)
            except FlushTimeout as late:
                receipt = late.receipt
            return receipt.version, receipt.missing

        begun = time.monotonic()
        answers = list(pool.map(lambda _: flush(), range(10)))
        assert time.monotonic() - begun < (3 if stopped else DEADLINE)
        assert len({version for version, _ in answers}) == 10
        assert {missing for _, missing in answers} == {stopped}
        for rank in stopped:
            m.signal(rank, signal.SIGCONT)


# README, "What is guaranteed": A flush has a receipt.
def test_a_flush_stops_waiting_for_a_worker_as_soon_as_it_dies() -> None:
    with mesh() as m, ThreadPoolExecutor(1) as pool:
        m.stop(3)
        pending = pool.submit(m.logs.flush, timeout=DEADLINE)
        assert not pending.done()
        m.signal(3, signal.SIGKILL)
        receipt = pending.result(DEADLINE / 2)
        assert (receipt.dead, receipt.missing, receipt.acked) == ((3,), (), (0, 1, 2, 4, 5, 6, 7))
        after = m.logs.flush(timeout=DEADLINE)
        assert (after.missing, after.acked) == ((), (0, 1, 2, 4, 5, 6, 7))


def test_a_flush_waits_for_the_records_in_the_journal_of_a_dead_worker() -> None:
    with mesh(1) as m:
        m.go.release()
        assert m.done.acquire(timeout=DEADLINE)
        m.signal(0, signal.SIGKILL)
        m.logs.flush(timeout=DEADLINE)
        assert m.logs.messages[:2] == ["early", "late 0"]


def test_a_flush_without_workers_is_complete() -> None:
    with collected() as logs:
        receipt = logs.flush()
    assert (receipt.acked, receipt.missing, receipt.dead) == ((), (), ())


class Flushing(logging.Handler):
    """A handler that flushes the client that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.client: LogClient | None = None
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Flush, and keep the error."""
        assert self.client is not None
        try:
            self.client.flush()
        except ClosedError as error:
            self.errors.append(error)


def test_a_flush_from_a_handler_of_the_client_raises_an_error_instead_of_hanging() -> None:
    flushing, collector = Flushing(), RecordCollector()
    with LogClient(flushing, collector) as client:
        flushing.client = client
        with started("fork", workers.log_numbered, [(client.address, 3, "return")]) as procs:
            join_all(procs)
        client.flush()
    assert len(flushing.errors) == len(collector.records) == 3
    assert re.search("a handler of this client called it", str(flushing.errors[0]))


def test_a_flush_in_a_running_event_loop_does_not_block_it() -> None:
    async def main(m: Mesh) -> int:
        ticks = 0
        flush = asyncio.create_task(asyncio.to_thread(m.logs.flush, timeout=2))
        while not flush.done():
            ticks += 1
            await asyncio.sleep(0.01)
        with pytest.raises(FlushTimeout, match="missing rank 0"):
            await flush
        return ticks

    with mesh(2) as m:
        m.stop(0)
        assert asyncio.run(main(m)) > 20, "the loop went on meanwhile"
        m.signal(0, signal.SIGCONT)
