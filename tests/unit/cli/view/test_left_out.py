"""What `meshlog follow` says of the records that it was too slow for, and of ranks that the run does not have."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.cli.view.follow import Filters, _LeftOut, note_absent

CASES = [
    (Filters(), "1,200 records (3 of level ERROR or above)"),
    (Filters(level=logging.INFO), "up to 1,200 records (up to 3 of level ERROR or above)"),
    (Filters(ranks=frozenset((1,))), "up to 1,200 records (up to 3 of level ERROR or above)"),
]


@pytest.mark.parametrize(("filters", "said"), CASES)
def test_the_errors_among_the_records_left_out_are_named(filters: Filters, said: str) -> None:
    observer: Any = SimpleNamespace(dropped=1200, dropped_errors=3)
    left_out = _LeftOut(observer, filters)
    assert left_out.more() == said
    observer.dropped += 1
    assert left_out.more().endswith("1 records (0 of level ERROR or above)")


@pytest.mark.parametrize(
    ("wanted", "known", "said"),
    [
        ((9,), (0, 1, 2, 3), "meshlog: this run has no rank 9: it has ranks 0-3. A rank that joins later is shown\n"),
        ((0, 8, 9), (0, 1), "meshlog: this run has no ranks 8-9: it has ranks 0-1. A rank that joins later is shown\n"),
        ((9,), (), "meshlog: this run has no rank 9: no rank has joined it yet. A rank that joins later is shown\n"),
        ((), (0,), ""),
        ((0,), (0, 1), ""),
    ],
)
def test_ranks_that_the_run_does_not_have_are_named(
    wanted: tuple[int, ...], known: tuple[int, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_absent(wanted, known)
    assert capsys.readouterr().err == said
