"""A job whose ranks all wait is reported once, with last lines and stacks; one that works is not."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, SettingError, install
from meshlog_handler.client.health import hang_watch
from meshlog_handler.insight.hang import Hang, HangDetector
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from .command_line import PYTHON, meshlog
from .procs import DEADLINE, started, stop_process
from .test_relay import relay

HUNG_SEC = 0.6
AWHILE_SEC = 1.5


def worker(work: Callable[[Any], None], address: str, rank: int, pipe: Any) -> None:
    install(address, capture=False, rank=rank)
    work(pipe)


def wait_for_lock(pipe: Any) -> None:
    logging.info("takes the lock")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def wait_at_barrier(pipe: Any) -> None:
    logging.info("at the barrier")
    pipe.recv()


def chat(pipe: Any) -> None:
    while not pipe.poll(0.01):
        logging.info("goes on")


def compute(pipe: Any) -> None:
    logging.info("computes")
    while not pipe.poll():
        sum(range(10_000))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What each look of a watch has found."""
    found: list[tuple[int, ...]] = []
    look = HangDetector.look

    def noted(self: HangDetector, *args: Any, **named: Any) -> tuple[int, ...]:
        found.append(look(self, *args, **named))
        return found[-1]

    monkeypatch.setattr(HangDetector, "look", noted)
    return found


def test_ranks_that_wait_for_each_other_are_reported_once_with_their_stacks(looks: list[tuple[int, ...]]) -> None:
    collector, hangs = RecordCollector(), list[Hang]()
    here, there = Pipe()
    with LogClient(collector, hang_after=HUNG_SEC, on_hang=hangs.append) as client:
        given = [(wait_for_lock, client.address, 0, there), (wait_at_barrier, client.address, 1, there)]
        with started("fork", worker, given) as procs:
            until(lambda: hangs, DEADLINE, "the report")
            told = len(looks)
            until(lambda: len(looks) > told + 8, DEADLINE, "more looks")
            for proc in procs:
                proc.kill()
        client.flush()
        reports = [record for record in collector.records if record.getMessage().startswith("no progress")]
    (hang,) = hangs
    assert [record.getMessage() for record in reports] == [hang.text]
    assert reports[0].levelno == logging.ERROR
    assert sorted(hang.ranks) == [0, 1]
    assert "last line: " in hang.text
    assert "wait_for_lock" in hang.text
    assert "wait_at_barrier" in hang.text
    here.close()


def test_a_stopped_rank_is_named_with_its_state() -> None:
    hangs: list[Hang] = []
    here, there = Pipe()
    with (
        LogClient(RecordCollector(), hang_after=HUNG_SEC, on_hang=hangs.append) as client,
        started("fork", worker, [(wait_at_barrier, client.address, 0, there)]) as (proc,),
    ):
        assert proc.pid is not None
        until(lambda: client.insight().ranks.get(0) and client.insight().ranks[0].records, DEADLINE, "its record")
        os.kill(proc.pid, signal.SIGSTOP)
        try:
            until(lambda: hangs, DEADLINE, "the report")
        finally:
            os.kill(proc.pid, signal.SIGCONT)
        here.send(None)
        proc.join()
    assert "stopped" in hangs[0].text


def watch_until_it_hangs(client: LogClient, looks: list[tuple[int, ...]]) -> None:
    """Wait for the record of rank 0, and then until a look tells a hang, or for twice the time after which it would."""
    until(lambda: client.insight().ranks.get(0) and client.insight().ranks[0].records, DEADLINE, "its record")
    began, before = time.monotonic(), len(looks)

    def over() -> bool:
        return any(looks) or (len(looks) > before + 8 and time.monotonic() > began + 2 * HUNG_SEC)

    until(over, DEADLINE, "looks")


@pytest.mark.parametrize("source", ["cpu", "output"])
def test_processor_time_counts_as_progress_if_it_is_asked_for(source: str, looks: list[tuple[int, ...]]) -> None:
    here, there = Pipe()
    with (
        LogClient(RecordCollector(), hang_after=HUNG_SEC, progress_from=source) as client,
        started("fork", worker, [(compute, client.address, 0, there)]) as (proc,),
    ):
        watch_until_it_hangs(client, looks)
        here.send(None)
        proc.join()
    assert any(looks) is (source == "output")


@pytest.mark.parametrize("source", ["cpu", "output"])
def test_processor_time_counts_also_behind_a_relay(source: str, looks: list[tuple[int, ...]]) -> None:
    here, there = Pipe()
    ours, its = Pipe()
    with (
        LogClient(RecordCollector(), hang_after=HUNG_SEC, progress_from=source) as client,
        started("fork", relay, [(its, client.address)]),
    ):
        assert ours.poll(DEADLINE)
        with started("fork", worker, [(compute, ours.recv(), 0, there)]) as (proc,):
            watch_until_it_hangs(client, looks)
            here.send(None)
            proc.join()
        ours.send("end")
        assert ours.poll(DEADLINE)
    assert any(looks) is (source == "output")


def test_ranks_whose_relay_does_not_answer_do_not_hang(looks: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_watch, "INSIGHT_SEC", 0.1)
    here, there = Pipe()
    ours, its = Pipe()
    with (
        LogClient(RecordCollector(), hang_after=AWHILE_SEC) as client,
        started("fork", relay, [(its, client.address)]) as (host,),
    ):
        assert ours.poll(DEADLINE)
        with started("fork", worker, [(chat, ours.recv(), 3, there)]) as (proc,):
            until(lambda: client.insight().ranks.get(3) and client.insight().ranks[3].records, DEADLINE, "its record")
            assert host.pid is not None
            stop_process(host.pid)
            until(lambda: client.insight(timeout=0.1).ranks[3].state == "unreachable", DEADLINE, "the relay to be late")
            assert "rank 3 unreachable" in str(client.insight(timeout=0.1))
            began, before = time.monotonic(), len(looks)
            until(lambda: len(looks) > before + 8 and time.monotonic() > began + 2 * AWHILE_SEC, DEADLINE, "looks")
            os.kill(host.pid, signal.SIGCONT)
            until(lambda: client.insight().ranks[3].state == "running", DEADLINE, "the answer of the relay")
            here.send(None)
            proc.join()
        ours.send("end")
        assert ours.poll(DEADLINE)
    assert not any(looks)


def test_invalid_arguments_for_hangs_are_rejected() -> None:
    for seconds in (0, -1, float("nan"), "soon"):
        with pytest.raises(SettingError, match="hang_after="):
            LogClient(hang_after=seconds)  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(SettingError, match="on_hang='kill'"):
        LogClient(hang_after=1, on_hang="kill")  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(SettingError, match="progress_from='disk'"):
        LogClient(progress_from="disk")
    for unused in ({"on_hang": print}, {"progress_from": "cpu"}):
        with pytest.raises(SettingError, match="has no effect without hang_after"):
            LogClient(**unused)


@pytest.mark.parametrize("end", [True, False])
def test_the_command_reports_a_hang_and_can_end_the_job(end: bool, tmp_path: Path) -> None:
    code = "import sys, time; print('step 1'); time.sleep(600)" if end else "import time; print('step 1'); time.sleep(2)"
    options = ("--hang-after", str(HUNG_SEC), *(("--on-hang", "kill", "--grace", "0.5") if end else ()))
    run = meshlog(tmp_path, "run", "-n", "2", *options, "--", *PYTHON, code, code=124 if end else 0)
    assert run.err.count("no progress for 0.6 s: ranks 0-1") == 2  # when it was found, and in the summary
    assert "last line: step 1" in run.err
    summary = run.err[run.err.index("meshlog: no progress") :]
    assert ("stopped by --on-hang kill" in summary) is end
