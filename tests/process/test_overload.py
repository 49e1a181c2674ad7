"""Workers log more than the client can show: drops are counted exactly and reported, calls return, quiet ranks are shown."""

from __future__ import annotations

import logging
import multiprocessing
import re
import statistics
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from meshlog_handler import FlushTimeout, LogClient
from meshlog_handler.client.peers.stats import RankStats
from meshlog_handler.client.reports import drop_reports
from meshlog_handler.testing import RecordCollector
from meshlog_handler.worker import record_stream

from . import flooders
from .procs import DEADLINE, join_all, started

JOURNAL_SIZE = 64 * 1024
REPORT = re.compile(r"dropped ([\d,]+) records \(rank (\d+), (\w+), (\w+)\)")


class Slow(RecordCollector):
    """A handler that is slow until `hurry` is set. It keeps the latency of each single record."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.hurry = threading.Event()
        self.latencies: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Wait if a flooder logged the record; keep it, except a record of `flood_until`."""
        if record.name == "flooder" and self._seconds:
            self.hurry.wait(self._seconds)
        elif record.msg == "single %d":
            self.latencies.append(time.time() - record.created)
        if record.msg != "flood %d %s":
            super().emit(record)


def flooded(on_full: str, count: int, size: int, seconds: float) -> tuple[Slow, RankStats, list[float]]:
    """Let one worker flood a slow client; return the handler, the stats of the rank, and the seconds that each call took."""
    mine, theirs = multiprocessing.Pipe()
    slow = Slow(seconds)
    with mine, theirs, LogClient(slow) as client:
        with started("fork", flooders.flood, [(client.address, on_full, count, size, theirs)]) as procs:
            assert mine.poll(DEADLINE)
            took = mine.recv()
            slow.hurry.set()
            receipt = client.flush(timeout=DEADLINE)
            stats = client.stats()[0]
            mine.send("end")
            assert join_all(procs) == [0]
        client.flush(timeout=DEADLINE)
        assert client.stats()[0].received == stats.received
    assert receipt.missing == ()
    assert receipt.dropped == stats.total_dropped
    return slow, stats, took


@pytest.fixture(autouse=True)
def _small_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_JOURNAL_SIZE", str(JOURNAL_SIZE))


# README, "What is guaranteed": Nothing is lost silently.
def test_dropped_records_are_counted_exactly_and_reported() -> None:
    count = 3000
    slow, stats, took = flooded("drop", count, size=4000, seconds=0.01)
    shown = [record for record in slow.records if record.name == "flooder"]
    numbers: list[Any] = [record.args[0] for record in shown]  # type: ignore[index]  # a tuple of two
    assert stats.dropped.keys() == {"policy"}
    assert stats.received == len(shown) == stats.last_seq
    assert stats.received + stats.total_dropped == count
    assert 0 < stats.total_dropped < count
    assert numbers == sorted(set(numbers)), "in order, each once"
    said: Counter[str] = Counter()
    for record in slow.records:
        if record.name == "meshlog":
            assert record.levelno == logging.WARNING
            assert vars(record)["rank"] == 0
            parts = REPORT.findall(record.getMessage())
            assert parts
            for number, rank, level, reason in parts:
                assert (rank, reason) == ("0", "policy")
                said[level] += int(number.replace(",", ""))
    logged = Counter({"INFO": count // 2, "WARNING": count // 2})
    assert said == logged - Counter(record.levelname for record in shown)
    took.sort()
    print(f"\na call in drop mode: median {took[count // 2] * 1e6:.0f} us, p99 {took[count * 99 // 100] * 1e3:.3f} ms")


def test_with_block_nothing_is_dropped_while_a_slow_handler_makes_progress() -> None:
    count = 1500
    slow, stats, took = flooded("block", count, size=4000, seconds=0.002)
    numbers = [record.args[0] for record in slow.records]  # type: ignore[index]  # as above
    assert numbers == list(range(count))
    assert (stats.received, stats.dropped, stats.duplicates) == (count, {}, 0)
    assert max(took) > 0.05, "the worker had to wait"


def test_with_block_a_call_waits_as_long_as_the_client_makes_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reports its progress at intervals. Without these reports, the call would not wait so long."""
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 0.8)
    monkeypatch.setattr(drop_reports, "_REPORT_SEC", 0.1)
    _, stats, took = flooded("block", 75, size=4000, seconds=0.2)
    assert (stats.received, stats.dropped) == (75, {})
    assert max(took) > 0.8


def test_a_flush_times_out_promptly_and_new_workers_join_after_the_handler_has_become_slow() -> None:
    """The handler is fast until the client takes thousands of records at a time. From then on, all of them are slow."""
    context = multiprocessing.get_context("fork")
    ready, end = context.Semaphore(0), context.Event()
    handler = BecomesSlow(20_000, 0.005)
    with (
        LogClient(handler) as client,
        started("fork", flooders.flood_until, [(client.address, "block", 0, ready, end)] * 2) as procs,
    ):
        assert handler.slow.wait(DEADLINE)
        begun = time.monotonic()
        with pytest.raises(FlushTimeout):
            client.flush(timeout=1)
        assert time.monotonic() - begun < 1.5
        begun = time.monotonic()
        with started("fork", flooders.forward, [(client.address, "block")]) as newcomers:
            assert join_all(newcomers) == [0]
        assert time.monotonic() - begun < 2
        handler.hurry.set()
        end.set()
        assert set(join_all(procs)) == {0}
        client.flush(timeout=DEADLINE)
        assert client.stats().dropped == 0


class BecomesSlow(logging.Handler):
    """A handler that is fast for `count` records, then takes `seconds` for each, until `hurry` is set."""

    def __init__(self, count: int, seconds: float) -> None:
        super().__init__()
        self._count, self._seconds = count, seconds
        self.slow, self.hurry = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Return at once for the first `count` records; then wait."""
        self._count -= 1
        if self._count < 0:
            self.slow.set()
            self.hurry.wait(self._seconds)


def longer_than(count: int, records: list[logging.LogRecord]) -> bool:
    """Tell whether there are more than `count` records."""
    return len(records) > count


def test_the_records_of_a_quiet_rank_are_shown_soon_while_seven_others_flood() -> None:
    context = multiprocessing.get_context("fork")
    ready, go, end = context.Semaphore(0), context.Semaphore(0), context.Event()
    handler, singles = Slow(0), 5
    with (
        LogClient(handler) as client,
        started("fork", flooders.flood_until, [(client.address, "block", 0, ready, end)] * 7) as procs,
    ):
        with started("fork", flooders.log_now_and_then, [(client.address, ready, go, singles)]) as quiet:
            for _ in range(8):
                assert ready.acquire(timeout=DEADLINE)
            for number in range(singles):
                go.release()
                handler.wait_for(partial(longer_than, number), DEADLINE)
            assert join_all(quiet) == [0]
        end.set()
        assert set(join_all(procs)) == {0}
        client.flush(timeout=DEADLINE)
        assert client.stats().dropped == 0
    assert [record.getMessage() for record in handler.records] == [f"single {number}" for number in range(singles)]
    assert statistics.median(handler.latencies) < 1, handler.latencies


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_a_flush_is_answered_in_the_middle_of_a_flood(on_full: str) -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Semaphore(0), context.Event()
    with (
        LogClient(Slow(0.0005)) as client,
        started("fork", flooders.flood_until, [(client.address, on_full, 4000, ready, end)] * 2) as procs,
    ):
        for _ in procs:
            assert ready.acquire(timeout=DEADLINE)
        receipts = [client.flush(timeout=DEADLINE) for _ in range(3)]
        end.set()
        assert set(join_all(procs)) == {0}
    assert [(receipt.acked, receipt.missing, receipt.dead) for receipt in receipts] == [((0, 1), (), ())] * 3
