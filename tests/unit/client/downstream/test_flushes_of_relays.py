"""A flush includes workers whose joining their relay has not reported yet, and no relay can delay it for long."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from meshlog_handler.client import calls
from meshlog_handler.client.calls import Calls
from meshlog_handler.client.downstream import relays
from meshlog_handler.client.downstream.relayed_peers import _MAX_GRANTED, ADMISSION_SEC
from meshlog_handler.client.flushes.acknowledgements import Acknowledgements
from meshlog_handler.client.flushes.flushes import Flushed, Flushes
from meshlog_handler.protocol.relay_messages import FlushDownstream, RankGranted, RankRequest
from meshlog_handler.system.error_reports import ErrorReports

from .test_relays import Scene, Upstream


def of_mesh(target: Any) -> bool:
    return bool(target.mesh == "mesh")


class Flushing(Scene):
    """A client's flushes and one relay, with a clock moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 100.0
        for module in (calls, relays):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.upstream = Upstream()
        monkeypatch.setattr(self.relays, "claim", self.upstream.claim)  # it answers when told to
        reports = ErrorReports()
        commands: Acknowledgements[str | bytes | None] = Acknowledgements(lambda pending: None, itertools.count(1))
        self.flushes = Flushes(lambda: None, lambda: "", reports)
        self.calls = Calls(
            self.reactor, registry=self.registry, relays=self.relays, flushes=self.flushes, commands=commands, own_token="own"
        )

    def grant(self, rank: int) -> None:
        """Give a rank to a worker of the relay."""
        self.relays.handle(self.relay, RankRequest(rank))
        self.upstream.claims.pop()(RankGranted(0, rank))
        self.received()

    def flush(self, timeout: float) -> Flushed:
        """Flush the mesh."""
        future = Flushed()
        self.calls.flush(future, timeout, of_mesh)
        return future

    def flushed(self) -> list[tuple[int, ...] | None]:
        """Return the ranks of the flushes that the relay has received since the last call."""
        self.calls.begin_flushes(self.now)
        try:
            return [each.ranks for each in self.received() if isinstance(each, FlushDownstream)]
        except BlockingIOError:
            return []


@pytest.fixture
def flushing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flushing]:
    scene = Flushing(monkeypatch)
    yield scene
    scene.close()


def test_a_flush_includes_a_worker_whose_joining_the_relay_has_not_reported_yet(flushing: Flushing) -> None:
    """The worker has its rank, and may have logged; the relay's message may take longer than the caller's own way."""
    flushing.grant(7)
    future = flushing.flush(30.0)
    assert (flushing.flushed(), future.done(), flushing.calls.deadline) == ([], False, 100.0 + ADMISSION_SEC)
    flushing.join(7)
    assert (flushing.flushed(), future.done(), flushing.calls.deadline) == ([(7,)], False, None)


def test_a_relay_that_does_not_report_delays_a_flush_for_a_moment(flushing: Flushing) -> None:
    flushing.join(3)
    flushing.grant(7)
    flushing.flush(30.0)
    for _ in range(3):
        flushing.now += ADMISSION_SEC / 3
        flushing.grant(8)  # it goes on
    assert flushing.flushed() == [(3,)]
    flushing.now += ADMISSION_SEC
    flushing.flush(30.0)
    assert flushing.flushed() == [(3,)]  # at once: these are not expected any longer


def test_a_flush_waits_for_reports_for_half_of_its_time_at_most(flushing: Flushing) -> None:
    flushing.grant(7)
    future = flushing.flush(1.0)
    flushing.now += 0.499
    assert (flushing.flushed(), future.done()) == ([], False)
    flushing.now += 0.001
    assert (flushing.flushed(), future.result(0).missing) == ([], ())


def test_a_flush_of_one_worker_does_not_wait_for_reports(flushing: Flushing) -> None:
    flushing.join(3)
    flushing.grant(7)
    flushing.calls.flush_known(Flushed(), 30.0, lambda each: getattr(each, "rank", None) == 3)
    assert flushing.flushed() == [(3,)]


def test_a_flush_of_everything_does_not_wait_for_reports(flushing: Flushing) -> None:
    flushing.grant(7)
    flushing.calls.flush(Flushed(), 30.0, None)
    assert flushing.flushed() == [None]


def test_a_client_that_stops_answers_a_flush_that_waits_for_reports(flushing: Flushing) -> None:
    flushing.join(3)
    flushing.grant(7)
    future = flushing.flush(30.0)
    flushing.calls.close()
    flushing.flushes.close()
    assert future.result(0).missing == (3,)


def test_what_is_kept_of_ranks_that_never_join_is_bounded(flushing: Flushing) -> None:
    for rank in range(_MAX_GRANTED + 10):
        flushing.grant(rank)
    assert len(flushing.relay._granted) == _MAX_GRANTED
