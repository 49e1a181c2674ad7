"""What was logged arrives: all of it, once, in order, however the process ends."""

from __future__ import annotations

import logging
import multiprocessing
from collections import defaultdict
from collections.abc import Iterable

import pytest

from meshlog_handler.testing import collected

from . import workers
from .procs import DEADLINE, held_up, join_all, started


def numbers_by_process(records: Iterable[logging.LogRecord]) -> dict[int | None, list[object]]:
    """Return the numbers that each process logged, as they came."""
    found: dict[int | None, list[object]] = defaultdict(list)
    for record in records:
        if record.name == workers.NAME:
            assert isinstance(record.args, tuple)
            found[record.process].append(record.args[0])
    return found


@pytest.mark.parametrize("ending", workers.ENDINGS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_records_of_16_processes_arrive_in_order_though_they_end_at_once(method: str, ending: str) -> None:
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


def test_what_a_killed_process_could_not_ship_is_read_from_its_journal_once() -> None:
    """The client's thread is held up until the worker is dead: most of what it logged stays in its journal."""
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


def test_without_room_for_a_journal_nothing_is_lost_either() -> None:
    with collected() as logs:
        with started("fork", workers.log_without_a_journal, [(logs.address, 200)]) as procs:
            assert join_all(procs) == [workers.ENDINGS["SIGKILL"]]
        logs.flush()
        counts = logs.client.stats()[0]
        found = numbers_by_process(logs.records)
    assert list(found.values()) == [list(range(200))]
    assert (counts.received, counts.replayed, counts.duplicates) == (200, 0, 0)


def test_records_of_several_processes_that_arrive_in_one_tick_are_shown_in_order_of_time() -> None:
    """Three workers log in turn while the client's thread is held up; all of it then comes in one tick."""
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
