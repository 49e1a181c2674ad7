"""What `meshlog follow` says of the records that it was too slow for."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.cli.view.follow import Filters, _LeftOut

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
