"""What counts as progress for the watch over hangs: lines, progress bars, and the processor time of a rank's processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.client.health import hang_watch
from meshlog_handler.client.health.hang_watch import HangWatch
from meshlog_handler.insight.hang import Hang
from meshlog_handler.insight.observation import Observation
from meshlog_handler.insight.stacks import Stacks
from meshlog_handler.system import process_state
from meshlog_handler.system.process_state import ProcessState, ProcessTimes, Work, process_times, work_of
from meshlog_handler.worker.record_stream import internal_threads

AFTER = 60.0
PAUSE = 5.0
DEADLINE = 30.0


class Client:
    """What the watch asks, with two ranks."""

    def __init__(self) -> None:
        self.ranks = {0: Observation(0), 1: Observation(1)}

    def find(self, timeout: float, work: bool) -> Any:
        return SimpleNamespace(observations=lambda brief: list(self.ranks.values()))

    def stacks(self, ranks: object = None, timeout: object = None) -> Stacks:
        return Stacks((), (), {})


class Watched:
    """A watch whose clock the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: str = "output") -> None:
        self.client, self.reports, self.now = Client(), list[str](), 1000.0
        monkeypatch.setattr(hang_watch, "monotonic", lambda: self.now)
        client: Any = self.client
        self.hangs: list[Hang] = []
        self._watch = HangWatch(client, AFTER, show=self.reports.append, on_hang=self.hangs.append, progress_from=source)

    def look(self, seconds: float = PAUSE, count: int = 1) -> None:
        for _ in range(count):
            self.now += seconds
            self._watch._look()


def times(parent: int, seconds: float = 0.0, *, runnable: bool = False) -> ProcessTimes:
    return ProcessTimes(parent, seconds, runnable)


def silent(rank: int, seconds: float, **more: Any) -> Observation:
    return Observation(rank, silence=seconds, **more)


def test_ranks_that_do_nothing_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.look(count=12)
    assert not watched.reports
    watched.look()
    assert [each.partition("\n")[0] for each in watched.reports] == ["no progress for 60 s: ranks 0-1"]


@pytest.mark.parametrize("said", [{"records": 1}, {"lines": 1}, {"last_line": "45%|####"}])
def test_a_record_a_line_or_a_progress_bar_is_progress(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]) -> None:
    watched = Watched(monkeypatch)
    watched.look(count=10)
    watched.client.ranks[1] = Observation(1, **said)
    watched.look(count=12)
    assert not watched.reports
    watched.look()
    assert watched.reports


def test_older_counters_of_a_relay_that_does_not_answer_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    told, counted = silent(0, 1.0, records=9, last_line="step 9"), silent(0, 1.0, records=2)
    for number in range(20):
        watched.client.ranks = {0: counted if number % 2 else told}
        watched.look()
    assert watched.reports


def test_a_watch_that_a_callback_ends_leaves_the_number_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_watch, "diagnose", lambda text: None)
    idents: list[int] = []

    def on_hang(hang: Hang) -> None:
        idents.append(threading.get_ident())
        raise SystemExit(1)

    client: Any = Client()
    watch = HangWatch(client, 0.01, show=lambda text: None, on_hang=on_hang, progress_from="output")
    watch.start()
    watch._thread.join(DEADLINE)
    (ident,) = idents
    assert ident not in internal_threads


def test_a_clock_that_is_set_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for number in range(40):
        watched.client.ranks[0] = silent(0, 3600.0, records=number)
        watched.look()
    assert not watched.reports


def test_time_in_which_the_watch_was_suspended_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.look()
    watched.client.ranks = {0: silent(0, 605.0), 1: silent(1, 605.0)}
    watched.look(600.0)
    assert not watched.reports


def test_what_a_rank_does_whose_relay_is_out_of_reach_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.look()
    watched.client.ranks = {rank: silent(rank, 0.0, state="unreachable") for rank in (0, 1)}
    watched.look(count=40)
    assert not watched.reports
    watched.client.ranks = {0: silent(0, 1.0, records=5), 1: silent(1, 200.0)}  # the network is back
    watched.look(count=11)
    assert not watched.reports
    watched.look(count=2)
    assert [(hang.ranks, hang.unreachable) for hang in watched.hangs] == [((1, 0), ())]


def test_a_hang_of_the_others_names_the_ranks_that_are_out_of_reach_and_is_found_again_for_certain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    watched.look()
    watched.client.ranks[1] = silent(1, 0.0, state="unreachable")
    watched.look(count=20)
    assert [each.partition("\n")[0] for each in watched.reports] == ["no progress for 60 s: rank 0; rank 1 not reachable"]
    assert [(hang.ranks, hang.unreachable) for hang in watched.hangs] == [((0,), (1,))]
    del watched.client.ranks[1]  # it has ended
    watched.look(count=20)
    assert [(hang.ranks, hang.unreachable) for hang in watched.hangs[1:]] == [((0,), ())]


@pytest.mark.parametrize(
    ("share", "more", "hangs"),
    [(0.06, {}, False), (0.04, {}, True), (0.002, {"crowded": True}, False), (0.0, {"crowded": True}, True)],
    ids=["a twentieth of a core", "less", "a little on a crowded host", "nothing on a crowded host"],
)
def test_processor_time_is_progress(share: float, more: dict[str, Any], hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, "cpu")
    for number in range(20):
        watched.client.ranks[1] = silent(1, 5.0 * number, worked=round(7.0 + number * PAUSE * share, 2), **more)
        watched.look()
    assert bool(watched.reports) is hangs


@pytest.mark.parametrize(
    ("every", "crowded", "hangs"),
    [(3, True, False), (3, False, True), (1, False, False)],
    ids=["at times, on a crowded host", "at times: it wakes up to look", "always: its share of the host is small"],
)
def test_a_rank_that_waits_for_a_core_makes_progress(
    every: int, crowded: bool, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, "cpu")
    for number in range(20):
        watched.client.ranks[1] = silent(1, 5.0 * number, runnable=number % every == 0, crowded=crowded)
        watched.look()
    assert bool(watched.reports) is hangs


def test_the_work_of_a_process_is_also_that_of_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {100: times(1, 1.0), 200: times(1, 2.0), 201: times(200, 4.0), 202: times(201, 8.0, runnable=True)}
    monkeypatch.setattr(process_state, "process_times", lambda: table)
    monkeypatch.setattr(process_state, "threads", lambda pid: [])
    assert work_of({0: {100}, 1: {200}, 2: {300}}, True) == {0: Work(1.0, False), 1: Work(14.0, True)}
    assert work_of({0: {100, 200, 201}}, True) == {0: Work(15.0, True)}


@pytest.mark.parametrize("crowded", [False, True])
def test_on_a_crowded_host_a_thread_beside_the_main_one_may_wait_for_a_core(
    crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {100: "sleeping", 105: "running", 200: "sleeping"}
    monkeypatch.setattr(process_state, "process_times", lambda: {100: times(1), 200: times(1)})
    monkeypatch.setattr(process_state, "threads", {100: [100, 105], 200: [200]}.__getitem__)
    monkeypatch.setattr(process_state, "thread_state", lambda pid, thread: ProcessState(states[thread], ""))
    assert work_of({0: {100}, 1: {200}}, crowded) == {0: Work(0.0, crowded), 1: Work(0.0, False)}


def test_the_table_of_processes_has_parents_and_the_time_of_children_that_ended() -> None:
    before = process_times()[os.getpid()]
    assert before.parent == os.getppid()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert process_times()[os.getpid()].seconds > before.seconds + 0.1
