"""The counters of ranks, and of ranks that have ended."""

from __future__ import annotations

import pytest

from meshlog_handler.client.peers.stats import EARLIER, MAX_PAST, PastStats, RankStats, Stats
from meshlog_handler.errors import ProtocolError


def test_the_latest_ended_ranks_are_kept_and_the_sums_are_exact() -> None:
    past = PastStats()
    for rank in range(MAX_PAST + 100):
        past.remember({rank: RankStats(rank, 1000 + rank, False, received=rank, dropped={"full": 1}, lines=2)})
    assert len(past) == MAX_PAST + 1
    assert set(past) == {EARLIER, *range(100, MAX_PAST + 100)}
    assert (past[EARLIER].received, past[EARLIER].lines, past[EARLIER].dropped) == (sum(range(100)), 200, {"full": 100})
    stats = Stats(past, 0, 0)
    assert stats.received == sum(range(MAX_PAST + 100))
    assert stats.dropped == MAX_PAST + 100


def test_a_rank_that_ends_again_counts_as_one_of_the_latest() -> None:
    past = PastStats()
    past.remember({7: RankStats(7, 1, False, received=1)})
    for rank in range(1000, 1000 + MAX_PAST):
        past.remember({rank: RankStats(rank, 1, False)})
        past.remember({7: RankStats(7, 2, False, received=1)})
    assert past[7].received == 1 + MAX_PAST


def test_counters_are_restored_from_those_of_a_relay() -> None:
    stats = RankStats(3, 17, True, 5, 1, 0, 2, {"full": 3}, 5, 1.5)
    counters = {name: stats[name] for name in RankStats.counted}
    assert RankStats.of(3, counters) == stats
    for name in counters:
        with pytest.raises(ProtocolError, match=name):
            RankStats.of(3, {**counters, name: "many"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("received", -1),
        ("received", True),
        ("received", "1"),
        ("last_seen", float("nan")),
        ("dropped", {"full": "many"}),
        ("dropped", {"full": -1}),
        ("dropped", {"full": True}),
        ("dropped", {"boredom": 1}),
        ("dropped", {7: 1}),
    ],
)
def test_the_counters_of_a_relay_are_checked(name: str, value: object) -> None:
    counters = {each: getattr(RankStats(3, 1), each) for each in RankStats.counted}
    assert RankStats.of(3, {**counters, "dropped": {"full": 2, "unreadable": 1}}).total_dropped == 3
    with pytest.raises(ProtocolError, match=f"malformed counter {name}"):
        RankStats.of(3, {**counters, name: value})
