from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import SettingError
from meshlog_handler.protocol.ranks import format_ranks, parse_ranks, rank_ranges

ranks = st.sets(st.integers(0, 40), max_size=20)


@pytest.mark.parametrize(
    ("known", "text"),
    [((), ""), ((5,), "5"), ((0, 1), "0-1"), ((0, 1, 2, 5), "0-2,5"), ((3, 1, 3, 7, 8), "1,3,7-8"), (range(1000), "0-999")],
)
def test_ranks_are_formatted_as_ranges(known: tuple[int, ...], text: str) -> None:
    assert rank_ranges(known) == text


@given(ranks.filter(bool))
def test_formatted_ranks_can_be_parsed(known: set[int]) -> None:
    assert parse_ranks(rank_ranges(known)) == known


@given(ranks)
def test_there_are_as_few_ranges_as_possible(known: set[int]) -> None:
    beginnings = [rank for rank in known if rank - 1 not in known]
    assert len([part for part in rank_ranges(known).split(",") if part]) == len(beginnings)


def test_ranks_in_a_sentence() -> None:
    assert format_ranks([3]) == "rank 3"
    assert format_ranks([3, 3]) == "rank 3"
    assert format_ranks([2, 0, 1, 5]) == "ranks 0-2,5"


@pytest.mark.parametrize(("text", "expected"), [("0", {0}), (" 0 , 4-6 ", {0, 4, 5, 6}), ("2,2-3,1", {1, 2, 3}), ("7-7", {7})])
def test_ranks_written_by_hand(text: str, expected: set[int]) -> None:
    assert parse_ranks(text) == expected


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "1-", "3-2", "1-2-3", "1.5", "0,,1", "²", "0-99999999999", "9" * 5000])
def test_invalid_ranks_raise_with_a_hint(text: str) -> None:
    with pytest.raises(SettingError, match="does not name ranks") as caught:
        parse_ranks(text)
    assert "Write" in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_ranks_or_raises_setting_error(text: str) -> None:
    try:
        assert all(rank >= 0 for rank in parse_ranks(text[:6]))
    except SettingError as error:
        assert repr(text[:6]) in str(error)  # noqa: PT017 -- both outcomes are right
