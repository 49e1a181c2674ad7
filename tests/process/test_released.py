"""A client stops normally: it shows earlier records, its workers show later ones, and each record is shown once."""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, LogRelay
from meshlog_handler.client.peers import reactor
from meshlog_handler.client.relay import log_relay as relay_module
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from . import released
from .procs import DEADLINE, join_all, started, stop_process

pytestmark = pytest.mark.usefixtures("real_stdout")
METHODS = ["fork", "spawn", "forkserver"]


def texts(collector: RecordCollector) -> list[str]:
    """Return the messages that were collected from the workers, in order."""
    return [record.getMessage() for record in collector.records if record.name != "meshlog"]


class Slow(RecordCollector):
    """A slow handler: workers have to wait for room in their journals."""

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(0.0005)
        super().emit(record)


@pytest.mark.parametrize("how", ["install", "config"])
@pytest.mark.parametrize("method", METHODS)
def test_workers_show_their_own_records_and_no_message_after_the_client_stops(method: str, how: str, tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context(method)
    ready, go = context.Semaphore(0), context.Semaphore(0)
    shown = RecordCollector()
    client = LogClient(shown).start()
    with started(method, released.log_in_steps, [(client.address, str(tmp_path), how, ready, go)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        began = time.monotonic()
        client.stop()
        assert time.monotonic() - began < 5
        go.release()
        go.release()
        assert join_all(procs) == [0]
    captured = how == "install"
    early = ["early", "early print", "early shell"] if captured else ["early"]
    assert sorted(texts(shown)) == early
    own = ["late", "late fork", "late print", "late shell"]
    if not captured:
        own = ["early print", "early shell", *own]
    assert sorted((tmp_path / "worker.stdout").read_text().splitlines()) == own
    assert (tmp_path / "worker.stderr").read_text() == ""


@pytest.mark.parametrize("handler", [RecordCollector, Slow])
@pytest.mark.parametrize("how", ["install", "config"])
def test_each_record_is_shown_once_by_the_client_or_by_its_worker(
    how: str, handler: type[RecordCollector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four workers with three threads each log without a pause. With the slow handler, their calls wait for room."""
    monkeypatch.setenv("MESHLOG_JOURNAL_SIZE", str(256 * 1024))
    counts = memoryview(mmap.mmap(-1, 8 * 8)).cast("q")
    shown = handler()
    client = LogClient(shown).start()
    names = ["a", "b", "c", "d"]
    calls = [(client.address, str(tmp_path), name, how, 3, counts, place) for place, name in enumerate(names, 1)]
    with started("fork", released.log_all_the_time, calls) as procs:
        until(lambda: all(count > 100 for count in counts[1:5]), DEADLINE, "all to be at work")
        client.stop()
        before = list(counts[1:5])
        until(lambda: all(new > old + 50 for new, old in zip(counts[1:5], before, strict=True)), DEADLINE, "them to go on")
        counts[0] = 1
        assert join_all(procs) == [0] * 4
    found = Counter(texts(shown))
    assert found
    for name in names:
        own = (tmp_path / f"{name}.stdout").read_text().splitlines()
        assert own
        found.update(own)
        assert (tmp_path / f"{name}.stderr").read_text() == ""
    assert {text for text, count in found.items() if count != 1} == set()
    last = Counter[str]()
    for text in found:
        last[text.rpartition(" ")[0]] += 1
    for thread, count in last.items():
        assert f"{thread} {count - 1}" in found, "no number is missing"
    assert sum(last.values()) == sum(counts[1:5])


def test_the_client_reads_the_journal_of_a_worker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(reactor, "diagnose", said.append)
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    shown = RecordCollector()
    client = LogClient(shown).start()
    with started("fork", released.log_in_steps, [(client.address, str(tmp_path), "install", ready, go)]) as procs:
        pid = procs[0].pid
        assert pid is not None
        assert ready.acquire(timeout=DEADLINE)
        stop_process(pid)
        began = time.monotonic()
        client.stop(0.5)
        assert 0.5 <= time.monotonic() - began < 5
        assert sorted(texts(shown)) == ["early", "early print", "early shell"]
        os.kill(pid, signal.SIGCONT)
        go.release()
        go.release()
        assert join_all(procs) == [0]
    assert (tmp_path / "worker.stderr").read_text() == ""
    assert "late" in (tmp_path / "worker.stdout").read_text().splitlines()
    assert said == [f"rank 0 (pid {pid}) does not answer; what it has logged is read from its journal"]


def test_a_worker_can_join_another_client_after_the_first_has_stopped(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Semaphore(0)
    mine, theirs = context.Pipe()
    shown, shown_later = RecordCollector(), RecordCollector()
    client = LogClient(shown).start()
    with mine, theirs, started("fork", released.log_to_two, [(client.address, str(tmp_path), ready, theirs)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        client.stop()
        with LogClient(shown_later) as second:
            mine.send(second.address)
            assert join_all(procs) == [0]
    assert texts(shown) == ["to the first"]
    assert sorted(texts(shown_later)) == ["printed", "to the second"]
    assert (tmp_path / "worker.stdout").read_text() == "to nobody\n"
    assert (tmp_path / "worker.stderr").read_text() == ""


def test_a_relay_ends_and_its_workers_continue_when_the_client_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(relay_module, "diagnose", said.append)
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    shown = RecordCollector()
    client = LogClient(shown).start()
    relay = LogRelay(client.address).start()
    with started("fork", released.log_in_steps, [(relay.address, str(tmp_path), "install", ready, go)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        client.stop()
        until(lambda: not relay.running, DEADLINE, "the relay to end")
        go.release()
        go.release()
        assert join_all(procs) == [0]
    relay.stop()
    assert sorted(texts(shown)) == ["early", "early print", "early shell"]
    assert (tmp_path / "worker.stderr").read_text() == ""
    assert sorted((tmp_path / "worker.stdout").read_text().splitlines()) == ["late", "late fork", "late print", "late shell"]
    assert said == []
