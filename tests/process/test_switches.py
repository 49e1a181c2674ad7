"""A switch has an exact place in the stream of each rank: old settings before the call, new ones after it has returned."""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from meshlog_handler import LogClient, install
from meshlog_handler.client import requests
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from . import workers
from .procs import DEADLINE, join_all, started, stop_process
from .test_blocked_handler import Blocks
from .test_orders import mesh

NAME = "app"
RANKS = 2


def log_phases(address: str, capture: bool, lock: Any, numbers: Any, place: int, ready: Any) -> None:
    """Log the number of the phase, ``numbers[0]``, without a pause until it is negative; then store the count of records."""
    install(address, rank=place - 1, capture=capture)
    logger, count = logging.getLogger(NAME), 0
    ready.release()
    while True:
        with lock:
            now = numbers[0]
            if now < 0:
                break
            if capture and count % 2:
                os.write(1, f"phase {now}\n".encode())
            else:
                logger.info("phase %s", now)
            count += 1
    numbers[place] = count


class Load:
    """Ranks that log the number of the phase. Settings change only in phases with an odd number."""

    def __init__(self, shows: LogClient, collector: RecordCollector, numbers: Any, locks: list[Any]) -> None:
        self.client, self.collector = shows, collector
        self._numbers, self._locks = numbers, locks
        self.sent = 0

    def enter(self, phase: int) -> None:
        """Begin a phase at a moment when no rank is in a logging call of the previous phase."""
        for lock in self._locks:
            lock.acquire()
        self._numbers[0] = phase
        for lock in self._locks:
            lock.release()

    def log_some(self, what: str, rank: int | None = None) -> None:
        """Wait until the ranks, or only `rank`, have logged in this phase."""
        # After this, all records of earlier phases have been received.
        self.client.flush(DEADLINE, None if rank is None else lambda member: member.rank == rank)
        at = self.client.stats().received
        until(lambda: self.client.stats().received > at + 50, DEADLINE, what)


@contextmanager
def load(capture: bool, window: float | None = None) -> Iterator[Load]:
    """Yield ranks that log without a pause. At the end, all of them have ended and every record has been shown."""
    context = multiprocessing.get_context("fork")
    ready = context.Semaphore(0)
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    numbers = memoryview(shared).cast("q")
    locks = [context.Lock() for _ in range(RANKS)]
    collector = RecordCollector()
    with LogClient(collector, aggregate_window_sec=window) as shows:
        calls = [(shows.address, capture, lock, numbers, place, ready) for place, lock in enumerate(locks, 1)]
        with started("fork", log_phases, calls) as procs:
            for _ in procs:
                assert ready.acquire(timeout=DEADLINE)
            made = Load(shows, collector, numbers, locks)
            yield made
            made.enter(-1)
            join_all(procs)
            made.sent = sum(numbers[1 : RANKS + 1])
            assert shows.flush(DEADLINE).missing == ()
    numbers.release()
    shared.close()


@pytest.mark.parametrize("capture", [False, True], ids=["records", "records and lines"])
def test_streaming_switches_exactly_and_every_record_is_shown_or_counted_as_hidden(capture: bool) -> None:
    with load(capture) as made:
        streaming = True
        for phase in range(0, 20, 2):
            made.enter(phase)
            made.log_some(f"phase {phase}")
            made.enter(phase + 1)
            streaming = not streaming
            made.client.set_streaming(streaming)
        made.enter(-1)
    stats = made.client.stats()
    shown = Counter(int(text.split()[1]) for text in made.collector.messages if text.startswith("phase"))
    assert stats.dropped == 0
    assert sum(shown.values()) + stats.hidden == made.sent
    for phase in range(0, 20, 4):
        assert shown[phase], f"phase {phase} was streamed"
        assert not shown[phase + 2], f"phase {phase + 2} was not"


def test_the_window_switches_exactly_at_the_call() -> None:
    with load(False) as made:
        windows = [60.0, None] * 5
        for number, window in enumerate(windows):
            made.enter(2 * number)
            made.log_some(f"phase {2 * number}")
            made.enter(2 * number + 1)
            made.client.set_window(window)
        made.enter(-1)
    stats = made.client.stats()
    singly: Counter[int] = Counter()
    counted = 0
    for record in made.collector.records:
        if record.name == NAME:
            count = record.meshlog.count or 1  # type: ignore[attr-defined]  # a `MeshRecord` has it
            counted += count
            if count == 1:
                singly[int(record.args[0])] += 1  # type: ignore[arg-type,index]  # as it was logged
    assert counted == made.sent
    assert stats.dropped == 0
    for number in range(10):
        if number % 2:  # a window is in effect
            assert not singly[2 * number], f"phase {2 * number} was grouped"
        else:
            assert singly[2 * number] >= 50


def test_records_from_before_streaming_is_off_are_shown_and_later_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of records wait to be shown when streaming is switched off, as in the first report of this fault."""
    with load(False) as made:
        until(lambda: made.client.stats().received > 6000, DEADLINE)
        made.enter(1)
        made.client.set_streaming(False)
        shown = len(made.collector.records)
        made.enter(2)
        made.log_some("more")
    assert len(made.collector.records) == shown
    assert shown + made.client.stats().hidden == made.sent


def test_a_stopped_rank_switches_when_it_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "SWITCH_SEC", 2.0)
    with load(False) as made:
        made.log_some("both")
        stopped = made.client.stats()[1].pid
        made.enter(1)
        stop_process(stopped)
        # Rank 1 may hold its lock while it is stopped, so the next phase takes only the lock of rank 0.
        locks, made._locks = made._locks, made._locks[:1]
        made.client.set_streaming(False)
        made.enter(2)
        made.log_some("rank 0", 0)
        made._locks = locks
        os.kill(stopped, signal.SIGCONT)
        assert made.client.flush(DEADLINE).missing == ()
        made.enter(4)
        made.log_some("both")
    of_phase = Counter((record.meshlog.rank, record.args[0]) for record in made.collector.records)  # type: ignore[attr-defined,index]  # as above
    assert not any(phase in (2, 4) for rank, phase in of_phase if rank == 0)
    assert not of_phase[1, 4]
    assert sum(of_phase.values()) + made.client.stats().hidden == made.sent


def test_handlers_switch_exactly_at_the_call() -> None:
    with load(False) as made:
        collectors = [made.collector]
        for phase in range(0, 12, 2):
            made.enter(phase)
            made.log_some(f"phase {phase}")
            made.enter(phase + 1)
            collectors.append(RecordCollector())
            made.client.set_handlers([collectors[-1]])
        made.enter(-1)
    by_collector = [Counter(int(text.split()[1]) for text in each.messages) for each in collectors]
    assert sum(sum(each.values()) for each in by_collector) == made.sent
    for at, counts in enumerate(by_collector):
        assert set(counts) <= {2 * at - 1, 2 * at, 2 * at + 1}


def test_the_call_that_ends_a_window_shows_its_pending_group() -> None:
    with load(False, window=60.0) as made:
        made.log_some("a group")
        made.enter(1)
        for window in (60.0, 30.0):
            made.client.set_window(window)
        assert made.collector.records[-1].meshlog.count > 50  # type: ignore[attr-defined]  # as above


def test_every_era_ends_after_its_switch() -> None:
    with load(False) as made:
        for number in range(30):
            made.client.set_window(1.0 + number)
        core = made.client._loop
        assert made.client.ask(lambda: core.dispatcher.eras) == []
        assert made.client.ask(lambda: [len(source.turns) for source in core.reactor.peers]) == [0] * RANKS


def test_a_worker_that_joins_a_mesh_later_has_the_streaming_mode_of_the_mesh() -> None:
    with mesh() as made:
        collector = RecordCollector()
        made.client.set_handlers([collector])
        made.member(0)
        made.logs.set_mode(False, None, logging.INFO)
        made.member(1)
        core = made.client._loop
        streams = made.client.ask(lambda: {source.rank: source.streaming for source in core.reactor.peers})
        assert streams == {0: False, 1: False}
        assert made.client.registry.streams("other")
        made.logs.set_mode(True, None, logging.INFO)
        assert made.client.registry.streams("mesh")


def test_records_that_wait_during_a_switch_of_handlers_go_to_the_old_handler() -> None:
    first, second = Blocks(), RecordCollector()
    with LogClient(first) as shows, ThreadPoolExecutor(1) as pool:
        with started("fork", workers.log_numbered, [(shows.address, 200, "return")]) as procs:
            join_all(procs)
            assert first.reached.wait(DEADLINE)
            switched = pool.submit(shows.set_handlers, [second])
            until(lambda: len(shows._mailbox) > 0, DEADLINE, "the call to wait for the handler")
            first.go.set()
            switched.result(DEADLINE)
        assert shows.flush(DEADLINE).missing == ()
    assert first.messages == [f"number {number}" for number in range(200)]
    assert second.messages == []
