"""Copies as plain data: plain values stay, odd values become text, and the containers around them keep their structure."""

from __future__ import annotations

import datetime
import decimal
import json
import logging
import pickle
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from enum import Enum, Flag, IntEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.output.json_formatter import JsonFormatter
from meshlog_handler.protocol.codec import MAX_DEPTH, Text, pack, unpack
from meshlog_handler.protocol.plain import Copier, plain

from ..crossing import cross, make
from .test_codec import nested, same
from .test_codec import plain as plain_values


class Point(NamedTuple):
    x: int
    y: Any


class Colour(Enum):
    RED = 1


class Word(str, Enum):
    LOUD = "loud"


class Level(IntEnum):
    HIGH = 35


class Mode(Flag):
    READ = 1


class Seconds(float):
    def __repr__(self) -> str:
        return "some"


class Broken:
    def __str__(self) -> str:
        raise LookupError("no text")


class NoItems(dict[str, int]):
    def items(self) -> Any:
        raise LookupError("no items")


class Unhashed(list[int]):
    def __hash__(self) -> int:  # type: ignore[override]  # a program may do this
        return 1


ODD: list[tuple[object, object]] = [
    (datetime.date(2024, 5, 5), "2024-05-05"),
    (decimal.Decimal("1.50"), "1.50"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (PurePosixPath("/a/b"), "/a/b"),
    ({1}, "{1}"),
    (Colour.RED, "Colour.RED"),
    (Mode.READ, str(Mode.READ)),
    (1 + 2j, "(1+2j)"),
    (bytearray(b"x"), "bytearray(b'x')"),
    (deque([1]), "deque([1])"),
    (UserDict(a=1), "{'a': 1}"),
    (Broken(), "<Broken object: its __str__ raised LookupError>"),
    (Word.LOUD, "loud"),
    (Level.HIGH, 35),
    (Seconds(0.5), 0.5),
    (True, True),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Point(1, None), (1, None)),
    (Unhashed([1]), [1]),
]


@given(plain_values)
def test_plain_data_is_copied_unchanged(value: object) -> None:
    copier = Copier()
    copied = copier.copy(value)
    assert copier.exact
    assert same(copied, value)
    assert same(unpack(pack(copied)), value)


leaves = st.integers(0, len(ODD) - 1).map(lambda at: ODD[at])
odd_values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda pairs: ([one for one, _ in pairs], [other for _, other in pairs]))
        | st.lists(inner, max_size=3).map(lambda pairs: (tuple(one for one, _ in pairs), tuple(other for _, other in pairs)))
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            lambda pairs: (
                OrderedDict((name, one) for name, (one, _) in pairs.items()),
                {name: o for name, (_, o) in pairs.items()},
            )
        )
    ),
    max_leaves=8,
)


def bare(value: Any) -> Any:
    """Return plain data with each `Text` as a `str`."""
    if isinstance(value, dict):
        return {bare(key): bare(item) for key, item in value.items()}
    return type(value)(map(bare, value)) if isinstance(value, (list, tuple)) else str(value) if type(value) is Text else value


@given(odd_values)
def test_containers_around_an_odd_leaf_keep_their_structure(pair: tuple[object, object]) -> None:
    value, expected = pair
    (found,) = cross(make("m", data=value))
    for copied in (plain(value), vars(found)["data"]):
        assert same(bare(copied), expected)
        assert copied == expected
        assert json.dumps(copied) == json.dumps(expected)


@pytest.mark.parametrize(("value", "expected"), ODD, ids=lambda value: type(value).__name__)
def test_an_odd_leaf_in_any_position(value: object, expected: object) -> None:
    for found, wanted in (
        (plain({"a": [value, (value,)]}), {"a": [expected, (expected,)]}),
        (vars(cross(make("m", user={"id": 5, "leaf": value}))[0])["user"], {"id": 5, "leaf": expected}),
        (cross(make("%s %s", 1, value))[0].args, (1, expected)),
        (cross(make("%(a)s", {"a": value}))[0].args, {"a": expected}),
        (cross(make({"event": "saved", "leaf": value}))[0].msg, {"event": "saved", "leaf": expected}),
    ):
        assert same(bare(found), wanted)


def test_containers_with_an_odd_leaf_have_the_text_of_their_process() -> None:
    for value in (
        {"a": [datetime.date(2024, 5, 5)]},
        [Colour.RED],
        (PurePosixPath("/a"), {1: uuid.UUID(int=1)}, ValueError("x")),
    ):
        record = make("%s %r", value, value, data=value)
        (found,) = cross(record)
        assert type(vars(found)["data"]) is type(value)
        text = logging.Formatter("%(data)s %(message)s").format(record)
        for copied in (found, logging.makeLogRecord(vars(found)), pickle.loads(pickle.dumps(found))):
            assert logging.Formatter("%(data)s %(message)s").format(copied) == text


def test_plain_keys_are_kept_and_others_become_text() -> None:
    value = {1: "a", (1, Colour.RED): "b", None: "c", datetime.date(2024, 5, 5): "d", Level.HIGH: "e", Unhashed([1]): "f"}
    assert plain(value) == {1: "a", (1, "Colour.RED"): "b", None: "c", "2024-05-05": "d", 35: "e", "[1]": "f"}
    moved: OrderedDict[str, int] = OrderedDict(a=1, b=2)
    moved.move_to_end("a")
    assert list(plain(moved)) == ["b", "a"]  # type: ignore[call-overload]  # a dict
    assert plain([NoItems(a=1)]) == ["{'a': 1}"]


def test_a_container_inside_itself_becomes_an_ellipsis() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    table: dict[str, Any] = {"circle": circle}
    table.update(dict.fromkeys("abcdef", table))
    assert plain(circle) == [1, "[...]"]
    assert plain(table) == {"circle": [1, "[...]"], **dict.fromkeys("abcdef", "{...}")}
    assert plain((circle, circle)) == ([1, "[...]"], [1, "[...]"]), "the same value twice is not a cycle"
    (found,) = cross(make("%s", table, user=table))
    assert found.getMessage() == str(table)


def test_copying_containers_that_contain_each_other_many_times_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlog_handler.protocol.plain._MAX_CONTAINERS", 1000)
    value: list[Any] = []
    for _ in range(20):
        value = [value, value]
    copied = str(plain(value))
    assert "..." in copied
    assert len(copied) < 20_000


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 8, MAX_DEPTH + 3))
def test_any_depth_arrives_and_the_deepest_part_is_text(depth: int) -> None:
    value = nested(depth)
    for record in (make("%s", value), make(value), make("m", deep=value), make("%(a)s", {"a": value})):
        (found,) = cross(record)
        assert found.getMessage() == record.getMessage()
    assert str(vars(cross(make("m", deep=value))[0])["deep"]).replace('"', "").replace("'", "") == str(value).replace("'", "")


@pytest.mark.parametrize(
    "msg",
    [{"event": "saved", "rows": [1, None]}, ["a", 1], ("a", 1), 5, 0.5, None, True, b"x", {}, [], OrderedDict(a=1)],
    ids=repr,
)
@pytest.mark.parametrize("extra", [{}, {"user": "ann"}])
def test_a_message_that_is_data_stays_data(msg: Any, extra: dict[str, Any]) -> None:
    record = make(msg, **extra)
    for found in cross(record, record):
        assert found.msg == msg
        assert found.getMessage() == record.getMessage()
        assert json.loads(JsonFormatter().format(found))["message"] == str(msg)


def test_data_with_an_odd_leaf_has_the_text_of_its_process() -> None:
    for msg in ({"when": datetime.date(2024, 5, 5)}, [Colour.RED], (Colour.RED,)):
        record = make(msg)
        (found,) = cross(record)
        for copied in (found, logging.makeLogRecord(vars(found)), pickle.loads(pickle.dumps(found))):
            assert copied.getMessage() == record.getMessage()
            assert type(copied.msg) is type(msg)
        assert found.msg == plain(msg)
        json.dumps(found.msg)
