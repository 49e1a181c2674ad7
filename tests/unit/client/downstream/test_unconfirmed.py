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
    template.rank, template.digest = rank, False
    template.base = {"thread": 1, "pathname": "app.py", "lineno": 7, "msg": "%d"}
    template.info = type("Info", (), {"stream": None})()  # its stream is all that is read
    values: list[tuple[Any, ...]] = [(0, float(number), 0.0, (number,), {}, None, {}) for number in range(count)]
    return [(each[1], template, each) for each in values]


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


def test_what_was_shown_is_left_out_once_if_a_late_relay_reads_it_in_a_journal() -> None:
    kept = Unconfirmed()
    kept.add([*items(1), *items(2)], frozenset((1, 2)), 30.0, SIZE)
    assert not kept.shown
    assert len(kept.expire(30.0)) == 4
    again = items(1, 5)  # of another connection: templates are others
    assert kept.without_shown([*again, *(others := items(3))]) == [*again[2:], *others]
    assert kept.without_shown(again) == again
    assert kept.shown, "those of rank 2"
    kept.without_shown(items(2))
    assert not kept.shown


def test_what_is_remembered_of_shown_records_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unconfirmed, "MAX_SHOWN", 3)
    kept = Unconfirmed()
    for rank in range(3):
        kept.add(items(rank), frozenset((rank,)), 30.0, SIZE)
    kept.expire(30.0)
    left = [[item[0] for item in kept.without_shown(items(rank))] for rank in range(3)]
    assert left == [[0.0, 1.0], [0.0], []], "the oldest are forgotten"
    assert not kept.shown
