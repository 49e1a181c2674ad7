"""What a client knows of the ranks of relays that answer late, or cannot tell how their ranks are."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.client.downstream.relayed_peers import RelayPeer
from meshlog_handler.client.health import insights as module
from meshlog_handler.client.health.insights import INSIGHT_SEC, Insights, Knowledge, Known
from meshlog_handler.client.peers.stats import RankStats
from meshlog_handler.insight.observation import Observation, by_rank
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.relay_messages import DownstreamInsight, InsightDownstream
from meshlog_handler.system import process_state
from meshlog_handler.system.error_reports import AT_ONCE, ErrorReports
from meshlog_handler.system.process_state import ProcessTimes

RANK = 4
TOLD = pack((pack(Observation(RANK, records=1).plain()),))


class Asked:
    """The insights of a client with one relay, whose answers the test gives, and whose clock it moves."""

    def __init__(self, relay: RelayPeer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.sent, self.told = 100.0, list[InsightDownstream](), list[str]()
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self._relay = relay
        stats: Any = SimpleNamespace(stats=RankStats(RANK, 4711, alive=True))
        relay.downstream = {RANK: stats}
        reactor: Any = SimpleNamespace(peers={relay}, send=self._send, error_reports=ErrorReports(self.told.append))
        self._insights = Insights(reactor, itertools.count(1))

    def _send(self, relay: object, message: InsightDownstream) -> bool:
        self.sent.append(message)
        return True

    def ask(self) -> tuple[int, Future[Knowledge]]:
        """Ask for the findings; return the number and their future."""
        future: Future[Knowledge] = Future()
        return self._insights.ask(future), future

    def answer(self, number: int, observations: bytes) -> None:
        """Let the relay answer a request."""
        self._insights.answered(self._relay, DownstreamInsight(number, observations))

    def give_up(self, number: int, after: float) -> None:
        """Do not wait any longer, so many seconds later."""
        self.now += after
        self._insights.give_up(number)


def states(future: Future[Knowledge]) -> list[tuple[int, str]]:
    """Return the ranks and their states. The findings must be known."""
    return [(each.rank, each.state) for each in future.result(0).observations(brief=True)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hello = Hello(4711, "node", None, None, "", (), True, 1.0, relay=True)
        yield Asked(RelayPeer(ours, hello, "", watched=False), monkeypatch)


@pytest.mark.parametrize(("told", "state"), [(TOLD, "running"), (pack(()), "unreachable")], ids=["its ranks", "nothing"])
@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_of_the_ranks_of_a_relay_that_cannot_tell_nothing_is_known(told: bytes, state: str, late: bool, asked: Asked) -> None:
    number, future = asked.ask()
    if late:
        asked.give_up(number, INSIGHT_SEC)
        _, future = asked.ask()
    asked.answer(number, told)
    assert states(future) == [(RANK, state)]


def test_a_relay_that_is_late_is_waited_for_only_a_little_longer_until_it_answers(asked: Asked) -> None:
    number, first = asked.ask()
    asked.give_up(number, 0.1)  # the first one that asks is in a hurry
    assert states(first) == [(RANK, "unreachable")]
    second, future = asked.ask()
    assert not future.done()
    asked.give_up(second, INSIGHT_SEC)
    _, future = asked.ask()
    assert states(future) == [(RANK, "unreachable")]
    assert [each.request for each in asked.sent] == [number]
    asked.answer(number, TOLD)
    third, future = asked.ask()
    asked.answer(third, TOLD)
    assert states(future) == [(RANK, "running")]
    assert [each.request for each in asked.sent] == [number, third]


def test_a_relay_that_answers_with_no_observation_again_and_again_causes_few_messages(asked: Asked) -> None:
    for _ in range(3 * AT_ONCE):
        number, future = asked.ask()
        asked.answer(number, pack((b"\xff",)))
        assert states(future) == [(RANK, "running")]
    assert len(asked.told) == AT_ONCE
    assert asked.told[0].startswith("what a relay reports about a rank is left out: ")


def known(rank: int, pid: int | None) -> Known:
    return Known(rank, pid, "running", "", "", None, 1, 0, 0, 100.0)


def test_the_work_of_a_process_counts_once_for_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {100: ProcessTimes(1, 2.0, False), 200: ProcessTimes(1, 4.0, False), 201: ProcessTimes(200, 8.0, False)}
    monkeypatch.setattr(process_state, "process_times", lambda: table)
    processes = [known(0, 100), known(0, 100), known(1, 200), known(1, 201), known(2, None), known(2, 300)]
    found = by_rank(Knowledge(100.0, processes, [], [], work=True).observations(brief=True))
    assert {rank: each.worked for rank, each in found.items()} == {0: 2.0, 1: 12.0, 2: 0.0}
