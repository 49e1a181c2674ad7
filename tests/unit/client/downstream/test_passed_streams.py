"""How far a client has come with the streams of workers downstream, and what a killed relay leaves behind."""

from __future__ import annotations

import pytest

from meshlog_handler.client.downstream import passed_streams
from meshlog_handler.client.downstream.passed_streams import PassedStreams
from meshlog_handler.client.peers.stats import RankStats
from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.relay_messages import DownstreamJoined, Passed

JOURNAL = "/run/1-1-0123456789abcdef-rank3.journal"
JOINED = DownstreamJoined(3, "mesh", 17, "far", {"gpus": 1}, JOURNAL)


def passed(position: int, received: int, dropped: int = 0) -> tuple[object, ...]:
    return tuple(Passed(JOURNAL, 3, 1, position, 0, received, (("full", 20, dropped),)))


def test_a_replacement_gets_the_latest_place_and_the_worker() -> None:
    streams = PassedStreams()
    assert not streams.joined(JOINED)
    streams.passed([passed(100, 5), passed(200, 9)], [])
    granted = streams.granted(7, JOURNAL, 0)
    assert granted.known is not None
    assert Passed.of(granted.known)[:4] == (JOURNAL, 3, 1, 200)
    assert (granted.request, granted.rank, granted.mesh, granted.pid) == (7, 3, "mesh", 17)
    assert (granted.hostname, granted.coords, granted.ended) == ("far", {"gpus": 1}, False)
    assert streams.joined(JOINED), "it has resumed"


def test_nothing_is_known_of_a_journal_that_is_new_or_was_removed() -> None:
    streams = PassedStreams()
    assert streams.granted(1, JOURNAL, 5).known is None
    streams.joined(JOINED)
    streams.passed([passed(100, 5)], [JOURNAL])
    assert streams.granted(1, JOURNAL, 5).known is None


def test_the_counters_of_several_relays_add_up() -> None:
    streams = PassedStreams()
    streams.joined(JOINED)
    streams.passed([passed(100, 5, dropped=2)], [])
    total = streams.counted(JOURNAL, RankStats(3, 17, received=8))
    assert (total.received, total.total_dropped) == (5, 2)
    streams.granted(1, JOURNAL, 0)
    assert streams.counted(JOURNAL, RankStats(3, 17, received=8)).received == 0, "the second relay has passed on nothing"
    streams.passed([passed(300, 4, dropped=3)], [])
    total = total.merged(streams.counted(JOURNAL, RankStats(3, 17)))
    assert (total.received, total.total_dropped) == (9, 3)


def test_a_worker_that_joins_the_same_relay_again_is_counted_once() -> None:
    streams = PassedStreams()
    streams.joined(JOINED)
    streams.passed([passed(100, 5, dropped=2)], [])
    first = RankStats(3, 17, received=5, dropped={"full": 2, "unsent": 4})
    streams.ended(JOURNAL, first)
    assert streams.granted(1, JOURNAL, 0).ended
    streams.joined(JOINED)
    assert not streams.granted(1, JOURNAL, 0).ended
    streams.ended(JOURNAL, RankStats(3, 17))
    assert streams.counted(JOURNAL, RankStats(3, 17)).received == 0, "the second connection has passed on nothing"
    streams.passed([passed(300, 4, dropped=3)], [])
    second = streams.counted(JOURNAL, RankStats(3, 17))
    assert (second.received, second.total_dropped) == (4, 1)


def test_the_oldest_streams_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_streams, "MAX_STREAMS", 3)
    streams = PassedStreams()
    for number in range(5):
        streams.joined(JOINED.replaced(journal=f"{JOURNAL}{number}"))
    assert [streams.joined(JOINED.replaced(journal=f"{JOURNAL}{number}")) for number in (4, 3, 2)] == [True] * 3
    assert not streams.joined(JOINED.replaced(journal=f"{JOURNAL}0"))


@pytest.mark.parametrize(
    "drops",
    [("full",), (("full", 20),), ((20, 20, 1),), (("full", 20, -1),), (("x" * 100, 20, 1),), (("full", 20, 1),) * 1000],
    ids=["text", "short", "number", "negative", "long", "many"],
)
def test_malformed_counts_of_dropped_records_are_refused(drops: tuple[object, ...]) -> None:
    with pytest.raises(ProtocolError, match="malformed position"):
        Passed.of((JOURNAL, 3, 1, 16, 0, 5, drops))


def test_a_long_path_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a path is longer"):
        Passed.of(("x" * 5000, 3, 1, 16, 0, 5, ()))
