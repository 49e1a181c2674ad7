"""Every record arrives, once and in order, no matter how the process ends."""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from multiprocessing.process import BaseProcess

import pytest

from meshlog_handler import LogClient
from meshlog_handler.testing import collected
from tests.waiting import until

from . import workers
from .procs import DEADLINE, held_up, join_all, started


def numbers_by_process(records: Iterable[logging.LogRecord]) -> dict[int | None, list[object]]:
    """Return the numbers that each process logged, in order of arrival."""
    found: dict[int | None, list[object]] = defaultdict(list)
    for record in records:
        if record.name == workers.NAME:
            assert isinstance(record.args, tuple)
            found[record.process].append(record.args[0])
    return found


# README, "What is guaranteed": Order, Nothing is lost silently.
@pytest.mark.parametrize("ending", workers.ENDINGS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_records_of_16_processes_arrive_in_order_even_if_the_processes_end_at_once(method: str, ending: str) -> None:
    with collected() as logs:
        with started(method, workers.log_numbered, [(logs.address, 1000, ending)] * 16) as procs:
            pids = {proc.pid for proc in procs}
            assert set(join_all(procs)) == {workers.ENDINGS[ending]}
        receipt = logs.flush()
        stats = logs.client.stats()
        found = numbers_by_process(logs.records)
    assert receipt.missing == ()
    assert receipt.dropped == 0
    assert found.keys() == pids
    assert all(numbers == list(range(1000)) for numbers in found.values())
    assert sorted(stats) == list(range(16))
    for rank, counts in stats.items():
        assert (rank, counts.received, counts.last_seq, counts.duplicates, counts.dropped) == (rank, 1000, 1000, 0, {})
        assert 0 <= counts.replayed <= 1000
        assert not counts.alive
    assert {counts.pid for counts in stats.values()} == pids
    assert (stats.received, stats.dropped) == (16_000, 0)


def test_records_that_a_killed_process_did_not_ship_are_read_once_from_its_journal() -> None:
    """The client's thread is held up until the worker is dead, so most records are only in the journal."""
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs:
        with started("fork", workers.log_numbered, [(logs.address, 20_000, "SIGKILL", ready, go)]) as procs:
            assert ready.acquire(timeout=DEADLINE)
            with held_up(logs.client):
                go.release()
                join_all(procs)
        logs.flush()
        counts = logs.client.stats()[0]
        found = numbers_by_process(logs.records)
    assert list(found.values()) == [list(range(20_000))]
    assert (counts.received, counts.last_seq, counts.duplicates) == (20_000, 20_000, 0)
    assert 0 < counts.replayed < 20_000


class Numbers(logging.Handler):
    """Checks that each process logs 0, 1, 2, ... and keeps the next expected number."""

    def __init__(self) -> None:
        super().__init__()
        self.next: Counter[int | None] = Counter()
        self.wrong: list[tuple[int | None, object, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Check one record."""
        if record.name == workers.NAME:
            assert isinstance(record.args, tuple)
            if record.args[0] != self.next[record.process]:
                self.wrong.append((record.process, record.args[0], self.next[record.process]))
            self.next[record.process] += 1


# README, "What is guaranteed": Nothing is lost silently.
def test_busy_workers_lose_nothing_while_100_others_are_killed_and_replaced() -> None:
    """Four of eight busy workers are killed at random points of their work, and new workers replace them, 25 times."""
    chance = random.Random(1)
    numbers, counts = Numbers(), memoryview(mmap.mmap(-1, 8 * 128)).cast("q")
    places: dict[int | None, int] = {}
    living: list[BaseProcess] = []
    with LogClient(numbers) as client, ExitStack() as ends:

        def busy(count: int) -> None:
            for _ in range(count):
                place = len(places) + 1
                (proc,) = ends.enter_context(started("fork", workers.log_until, [(client.address, counts, place)]))
                places[proc.pid] = place
                living.append(proc)
            until(lambda: all(counts[places[proc.pid]] for proc in living), DEADLINE, "all workers to be busy")

        busy(8)
        for _ in range(25):
            killed = chance.sample(living, 4)
            for proc in killed:
                proc.kill()
                living.remove(proc)
            assert set(join_all(killed)) == {-signal.SIGKILL}
            busy(4)
        counts[0] = 1
        assert set(join_all(living)) == {0}
        client.flush(DEADLINE)
        survivors = {proc.pid for proc in living}
        stats = client.stats()
    assert numbers.wrong == []
    assert len(places) == 108
    for pid, place in places.items():
        # The last record of a worker may have arrived even if its call has not returned.
        more = numbers.next[pid] - counts[place]
        assert more == 0 if pid in survivors else more in (0, 1)
    assert (stats.received, stats.dropped) == (sum(numbers.next.values()), 0)


def test_records_are_shown_at_once_though_signals_interrupt_the_thread_that_ships_them() -> None:
    """As `os.setuid` does. The worker goes on, and nobody asks for a flush."""
    with collected() as logs, started("fork", workers.log_while_interrupted, [(logs.address, 50)]) as [proc]:
        until(lambda: "number 49" in logs.messages, DEADLINE, lambda: f"the last record, after {logs.messages[-1:]}")
        assert numbers_by_process(logs.records) == {proc.pid: list(range(50))}


def test_no_record_is_lost_without_space_for_a_journal() -> None:
    with collected() as logs:
        with started("fork", workers.log_without_a_journal, [(logs.address, 200)]) as procs:
            assert join_all(procs) == [workers.ENDINGS["SIGKILL"]]
        logs.flush()
        counts = logs.client.stats()[0]
        found = numbers_by_process(logs.records)
    assert list(found.values()) == [list(range(200))]
    assert (counts.received, counts.replayed, counts.duplicates) == (200, 0, 0)


# README, "What is guaranteed": Order.
def test_records_of_several_processes_that_arrive_in_one_tick_are_shown_in_time_order() -> None:
    """Three workers log in turn while the client's thread is held up; then all records arrive in one tick."""
    context = multiprocessing.get_context("fork")
    turns = [context.Semaphore(0) for _ in range(3)]
    ready, shipped = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs:
        calls = [(logs.address, index, turns, 40, ready, shipped) for index in range(3)]
        with started("fork", workers.log_in_turn, calls) as procs:
            for _ in procs:
                assert ready.acquire(timeout=DEADLINE)
            with held_up(logs.client):
                turns[0].release()
                for _ in procs:
                    assert shipped.acquire(timeout=DEADLINE)
            logs.flush()
            join_all(procs)
        shown = [record for record in logs.records if record.name == workers.NAME]
    assert [record.args[0] for record in shown] == list(range(120))  # type: ignore[index]  # a tuple of one
    assert len({record.process for record in shown}) == 3
