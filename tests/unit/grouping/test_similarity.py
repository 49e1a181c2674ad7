from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from meshlog_handler.grouping.similarity import (
    distance,
    distance_limit,
    mask_digits,
    number_value,
    profile,
    tokenize_line,
)

short = st.text(alphabet="abc é\U0001f600", max_size=80)
anything = st.text(max_size=60)


def similar(a: str, b: str) -> bool:
    limit = distance_limit(max(len(a), len(b)))
    return distance(a, b, limit) <= limit


def shape(text: str) -> str:
    return tokenize_line(text).shape


def numbers(text: str) -> list[str]:
    return [token.text for token in tokenize_line(text).tokens if token.is_number]


@given(short, short)
def test_distance_equals_that_of_rapidfuzz(a: str, b: str) -> None:
    assert distance(a, b, 1000) == Levenshtein.distance(a, b)


@given(short, short, st.integers(0, 90))
def test_distance_stops_above_its_limit(a: str, b: str, limit: int) -> None:
    assert distance(a, b, limit) == min(Levenshtein.distance(a, b), limit + 1)


@given(anything, st.lists(st.tuples(st.integers(0, 60), st.sampled_from("xyz")), max_size=6))
def test_distance_of_nearly_equal_texts(text: str, edits: list[tuple[int, str]]) -> None:
    other = text
    for place, char in edits:
        other = other[:place] + char + other[place + 1 :]
    assert distance(text, other, 200) == Levenshtein.distance(text, other)
    assert distance(other, text, 200) == distance(text, other, 200)


@given(short, short)
def test_similar_means_a_distance_below_15_percent_of_the_longer(a: str, b: str) -> None:
    assume(a or b)
    assert similar(a, b) == (Levenshtein.distance(a, b) * 100 < 15 * max(len(a), len(b)))


def test_the_limit_itself_is_not_similar() -> None:
    assert similar("a" * 20, "a" * 18 + "bb")  # 0.10
    assert not similar("a" * 20, "a" * 17 + "bbb")  # 0.15
    assert similar("", "")
    assert not similar("", "a")
    assert [distance_limit(length) for length in (0, 1, 6, 7, 20, 21)] == [0, 0, 0, 1, 2, 3]


@given(short, short)
def test_profiles_never_exclude_similar_texts(a: str, b: str) -> None:
    bound = 2 * Levenshtein.distance(a, b) - abs(len(a) - len(b))
    assert (profile(a) ^ profile(b)).bit_count() <= bound


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step 12 loss=0.25", "step # loss=#"),
        ("lr=1e-05 x=-3.5 y=+2", "lr=# x=# y=#"),
        ("2024-01-01 12:00:01,123 done", "# # done"),
        ("2024-01-01T12:00:01Z", "#T#Z"),
        ("1,234,567 tokens", "# tokens"),
        ("at 0x7f3a2b and 0XFF", "at # and #"),
        ("id 123e4567-e89b-12d3-a456-426614174000.", "id #."),
        ("commit 3f2a91c0d4 and abcdef12", "commit # and #"),
        ("a decade of facades", "a decade of facades"),
        ("saved /data/run12/ckpt-100.pt now", "saved # now"),
        ('File "/usr/lib/x.py", line 12', 'File "#", line #'),
        ("and/or 1/2 50%/s", "and/or #/# #%/s"),
        ("from 10.0.0.1:8080, v1.2.3", "from #:#, v#"),
        ("gpu0 layer12.weight", "gpu# layer#.weight"),
        ("step     9 of  100", "step # of #"),
        ("step9", "step#"),
        ("\x1b[31m12\x1b[0m items", "# items"),
        ("3-4 and a-5 (-6)", "#-# and a-# (#)"),
        ("", ""),
        ("no numbers here", "no numbers here"),
        ("é 5 €", "é # €"),
    ],
)
def test_shape(text: str, expected: str) -> None:
    assert shape(text) == expected


def test_numbers_as_written() -> None:
    assert numbers("step 012 loss=-0.250 at 12:30 id=0xff lr=1E-5") == ["012", "-0.250", "12:30", "1E-5"]


@given(anything)
def test_tokens_and_pieces_restore_the_text(text: str) -> None:
    line = tokenize_line(text)
    parts = [line.pieces[0]]
    for token, piece in zip(line.tokens, line.pieces[1:], strict=True):
        assert text[token.start : token.end] == token.text
        parts += [token.text, piece]
    assert "".join(parts) == text


@given(st.text(alphabet="ab 0123456789.-:,/e", max_size=60))
def test_texts_with_equal_digit_masks_have_equal_shapes_and_token_places(text: str) -> None:
    digits = iter("73915284606" * 10)
    other = re.sub("[0-9]", lambda _: next(digits), text)
    assert mask_digits(text) == mask_digits(other)
    one, two = tokenize_line(text), tokenize_line(other)
    assert one.shape == two.shape
    assert [(token.start, token.end) for token in one.tokens] == [(token.start, token.end) for token in two.tokens]


@given(st.text(alphabet="ab 0123456789.-:,+/eE", max_size=60))
def test_every_number_has_a_value(text: str) -> None:
    assert all(number_value(token) == number_value(token) for token in numbers(text))


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)), min_size=2))
def test_numbers_are_ordered_by_value(values: list[float]) -> None:
    # The spaces make a sign part of its number. Logs usually contain numbers as `repr` writes them.
    texts = [numbers(f"x {value!r} y")[0] for value in values]
    assert max(texts, key=number_value) == max(zip(values, texts, strict=True), key=lambda pair: pair[0])[1]


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("9", "10"),
        ("-10", "-9"),
        ("9:59", "10:00"),
        ("12:00:00,100", "12:00:00,200"),
        ("999", "1,000"),
        ("2023-12-31", "2024-01-01"),
        ("1e-9", "1e-5"),
        ("9" * 5000, "1" + "0" * 5000),
        ("-1,000", "-999"),
    ],
)
def test_number_value_orders_different_notations(lower: str, higher: str) -> None:
    if len(lower) < 100:
        assert number_value(lower) < number_value(higher)
    else:
        assert number_value(lower) == number_value(higher) == float("inf")


@pytest.mark.parametrize(
    "unit",
    [
        "1,",
        "1,234",
        "1.2",
        "a1",
        "12:",
        "/a",
        "0x",
        "f",
        "-",
        " ",
        " 1",
        "  x",
        "1",
        "\x1b[",
        "1e",
        "deadbeef-",
    ],
)
def test_no_text_makes_tokenizing_slow(unit: str) -> None:
    text = unit * (16_384 // len(unit))
    start = time.process_time()
    shape(text)
    assert time.process_time() - start < 2
