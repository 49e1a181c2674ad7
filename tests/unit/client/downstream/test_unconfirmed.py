"""What killed relays had passed on beyond their last boundaries."""

from __future__ import annotations

from typing import Any

import pytest

from meshlog_handler.client.downstream import unconfirmed
from meshlog_handler.client.downstream.unconfirmed import Unconfirmed
from meshlog_handler.protocol.decode import Item
from meshlog_handler.protocol.relayed_records import RelayedTemplate

SIZE = 100


def items(rank: int, count: int = 2) -> list[Item]:
    """Records of one rank, as a relay passed them on."""
    template = RelayedTemplate.__new__(RelayedTemplate)
    template.rank = rank
    template.info = type("Info", (), {"stream": None})()  # its stream is all that is read
    values: tuple[Any, ...] = (0, 0, 0, 0, 0, 0, {})
    return [(float(number), template, values) for number in range(count)]


def test_records_of_a_rank_that_does_not_resume_are_due_in_time() -> None:
    kept, first = Unconfirmed(), items(1)
    assert kept.add([*first, *items(2)], frozenset((1,)), 30.0, SIZE) != []
    assert (kept.deadline, kept.expire(29.0)) == (30.0, [])
    assert kept.expire(30.0) == first
    assert kept.deadline is None


def test_records_of_a_rank_that_resumes_are_dropped() -> None:
    kept = Unconfirmed()
    assert kept.add(items(1), frozenset((1,)), 30.0, SIZE) == []
    kept.resumed(1)
    assert kept.deadline is None


def test_what_is_kept_over_many_reconnections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unconfirmed, "MAX_UNCONFIRMED", 3 * SIZE)
    kept = Unconfirmed()
    tails = [items(rank) for rank in range(4)]
    shown = [kept.add(tail, frozenset(range(9)), 30.0, SIZE) for tail in tails]
    assert shown == [[], [], [], tails[0]], "the oldest ones are due at once"
    kept.resumed(2)
    more, most = items(5), items(6)
    assert kept.add(more, frozenset(range(9)), 31.0, SIZE) == []
    assert kept.add(most, frozenset(range(9)), 31.0, 4 * SIZE) == [*tails[1], *tails[3], *more, *most]
    assert kept.deadline is None
