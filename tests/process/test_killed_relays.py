"""A relay that is killed under load is replaced: no record is lost, and none is shown twice."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import pytest

import meshlog_handler
from meshlog_handler.client.downstream import relays
from meshlog_handler.client.downstream.checkpoints import Checkpoints
from meshlog_handler.client.downstream.relayed_peers import RelayPeer
from meshlog_handler.transport import run_directory
from meshlog_handler.worker import next_client
from tests.waiting import until

from .procs import DEADLINE
from .test_relay import Tree, relay, tree

LOGGER = "below"
KILLS = int(os.environ.get("MESHLOG_TEST_RELAY_KILLS", "5"))


def busy(pipe: Any, captured: bool) -> None:
    """Join the relay at the received address; log until told to stop, and return how much."""
    meshlog_handler.install(pipe.recv(), capture=captured)
    pipe.send("joined")
    logger = logging.getLogger(LOGGER)
    number = 0
    while not pipe.poll(0):
        for _ in range(5):
            logger.info("%d of %d", number, os.getpid())
            number += 1
        if number % 1000 == 0:
            logger.info("%s", "x" * 300_000)
        time.sleep(0.005)
    pipe.recv()
    pipe.send(number)
    pipe.recv()


def last_words(pipe: Any) -> None:
    """Join the relay; log a number of records while there is no relay, and die."""
    meshlog_handler.install(pipe.recv(), capture=False)
    pipe.send("joined")
    count = pipe.recv()
    for number in range(count):
        logging.getLogger(LOGGER).info("last %d", number)
    pipe.send("done")
    os.kill(os.getpid(), signal.SIGKILL)


def impatient(pipe: Any) -> None:
    """Do as `last_words`, but take the relay for gone after a short while, and have a small journal."""
    next_client.patiently.__defaults__ = (0.2,)  # only in this process
    os.environ["MESHLOG_JOURNAL_SIZE"] = "65536"
    last_words(pipe)


def answer(pipe: Any) -> Any:
    assert pipe.poll(DEADLINE)
    return pipe.recv()


def kill_relay(job: Tree, place: int = -1) -> None:
    """Kill a relay, the latest one, with all its threads, and wait for its end."""
    _, pid = job.relays.pop(place)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not run_directory.lives(pid), what="the end of the relay")


class Arrived:
    """The numbers that have arrived, by process; each record is looked at once."""

    def __init__(self) -> None:
        self._looked_at = 0
        self._numbers: dict[int, Counter[int]] = {}

    def numbers(self, records: list[logging.LogRecord], pid: int) -> Counter[int]:
        new = records[self._looked_at :]
        self._looked_at += len(new)
        for record in new:
            if record.msg == "%d of %d" and isinstance(record.args, tuple):
                number, process = cast("tuple[int, int]", record.args)
                self._numbers.setdefault(process, Counter())[number] += 1
        return self._numbers.setdefault(pid, Counter())


_arrived: WeakKeyDictionary[Tree, Arrived] = WeakKeyDictionary()


def numbers(job: Tree, pid: int) -> Counter[int]:
    return _arrived.setdefault(job, Arrived()).numbers(job.collector.records, pid)


def check_complete(job: Tree, pid: int, count: int) -> None:
    found = numbers(job, pid)
    twice = [number for number, times in found.items() if times > 1]
    lost = [number for number in range(count) if number not in found]
    assert (len(lost), len(twice)) == (0, 0), (lost[:5], twice[:5])


def log_through_kills(job: Tree, kills: int) -> None:
    address = job.relay()
    workers = [job.start(busy, captured) for captured in (True, False)]
    for pipe, _ in workers:
        pipe.send(address)
        assert answer(pipe) == "joined"
    for _ in range(kills):
        before = {pid: len(numbers(job, pid)) for _, pid in workers}
        for pid, count in before.items():
            until(lambda pid=pid, count=count: len(numbers(job, pid)) > count + 50, what="records")  # type: ignore[misc]
        kill_relay(job)
        assert job.relay() == address
    for pipe, pid in workers:
        pipe.send("stop")
        count = answer(pipe)
        until(lambda pid=pid, count=count: len(numbers(job, pid)) >= count, what="all records")  # type: ignore[misc]
    job.client.flush()
    for pipe, pid in workers:
        pipe.send("end")
        check_complete(job, pid, max(numbers(job, pid)) + 1)
    assert not job.client.stats().dropped
    job.end()


def test_killed_relays_lose_no_record_and_show_none_twice() -> None:
    with tree() as job:
        log_through_kills(job, KILLS)


def test_the_journal_of_a_worker_that_died_without_a_relay_is_read_by_the_replacement() -> None:
    with tree() as job:
        address = job.relay()
        pipe, pid = job.start(last_words)
        pipe.send(address)
        answer(pipe)
        until(lambda: job.client.stats().received == 0 and len(job.client.stats()) > 0, what="the worker to be known")
        kill_relay(job)
        pipe.send(500)
        answer(pipe)
        until(lambda: not run_directory.lives(pid), what="the end of the worker")
        job.relay()
        job.collector.wait_for(lambda records: sum(record.msg == "last %d" for record in records) == 500)
        job.client.flush()
        assert sum(record.msg == "last %d" for record in job.collector.records) == 500
        job.end()


def test_a_worker_that_waits_no_longer_for_a_relay_overwrites_nothing_that_a_later_one_reads() -> None:
    with tree() as job:
        pipe, pid = job.start(impatient)
        pipe.send(job.relay())
        answer(pipe)
        until(lambda: len(job.client.stats()) > 0, what="the worker to be known")
        kill_relay(job)
        pipe.send(5000)
        answer(pipe)
        until(lambda: not run_directory.lives(pid), what="the end of the worker")
        job.relay()
        until(lambda: last_words_shown(job) + job.client.stats().dropped >= 5000, what="the account")
        job.end()
        job.client.flush()
        dropped = sum((Counter(each.dropped) for each in job.client.stats().values()), Counter[str]())
        assert list(dropped) == ["gone"]
        assert last_words_shown(job) + dropped["gone"] == 5000


def silent_relay(pipe: Any, above: str) -> None:
    """Run a relay that tells no boundaries, as if it were killed before the next one."""
    Checkpoints.step = lambda self, now, idle: None  # type: ignore[method-assign]  # only in this process
    relay(pipe, above)


def test_a_killed_relay_with_another_one_below_is_replaced() -> None:
    with tree() as job:
        above = job.relay()
        below = job.relay(above)
        pipe, pid = job.start(busy, False)
        pipe.send(below)
        assert answer(pipe) == "joined"
        for _ in range(2):
            before = len(numbers(job, pid))
            until(lambda before=before: len(numbers(job, pid)) > before + 50, DEADLINE, "records")  # type: ignore[misc]
            kill_relay(job, 0)
            assert job.relay() == above
            job.relays.reverse()
        pipe.send("stop")
        count = answer(pipe)
        until(lambda: len(numbers(job, pid)) >= count, DEADLINE, "all records")
        assert not job.client.flush().missing
        pipe.send("end")
        check_complete(job, pid, count)
        assert not job.client.stats().dropped
        job.end()


def last_words_shown(job: Tree) -> int:
    return sum(record.msg == "last %d" for record in job.collector.records)


def held(job: Tree) -> int:
    """Return the bytes that the client has of a relay beyond its last boundary."""
    return sum(each.held_bytes for each in job.client.stack_collector.peers if isinstance(each, RelayPeer))


def test_a_relay_that_comes_too_late_shows_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "PATIENCE_SEC", 0.2)
    with tree() as job:
        above, pid = job.start(silent_relay, job.client.address)
        address = answer(above)
        job.relays.append((above, pid))
        pipe, worker = job.start(last_words)
        pipe.send(address)
        answer(pipe)
        pipe.send(500)
        answer(pipe)
        until(lambda: not run_directory.lives(worker), what="the end of the worker")
        until(lambda: job.client.ask(partial(held, job)) > 500 * 50, what="its records")
        kill_relay(job)
        job.collector.wait_for(lambda _: last_words_shown(job) > 200)
        job.relay()
        job.end()
        job.client.flush()
        assert last_words_shown(job) == 500
