from __future__ import annotations

import contextlib
import itertools
import math
import struct
import sys
from collections import OrderedDict
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.codec import MAX_COLLIDING, MAX_DEPTH, MAX_INT, NotPlain, Text, pack, unpack

# All texts, including lone surrogates.
texts = st.text(st.characters(exclude_categories=()))
scalars = (
    st.none()
    | st.booleans()
    | st.builds(Text, texts, texts)
    | st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | texts
    | st.binary(max_size=64)
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=3)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Return whether two values have the same bits and types: -0.0 is not 0, nan is nan, True is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, Text):
        return (str.__str__(one), repr(one)) == (str.__str__(other), repr(other))
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return bool(one == other)


@given(plain)
def test_unpack_returns_the_packed_value(value: object) -> None:
    assert same(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "value",
    [0, -1, (1 << 63) - 1, -(1 << 63), 1 << 63, -(1 << 63) - 1, 255, 256, -128, -129, MAX_INT - 1, -MAX_INT],
    ids=lambda value: f"{value.bit_length()} bits",
)
def test_integers_at_the_limits(value: int) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize("value", [MAX_INT, -MAX_INT - 1, 1 << 64000], ids=["a bit more", "a bit less", "64001 bits"])
def test_an_int_that_python_may_refuse_to_print_is_rejected(value: int) -> None:
    with pytest.raises(NotPlain):
        pack(value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    with pytest.raises(ProtocolError):
        unpack(b"I" + len(data).to_bytes(4, "little") + data)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, -0.0, 5e-324, True, False, "\ud800", "\0", b"\0\xff", {}, (), []], ids=repr
)
def test_edge_values_are_unpacked_unchanged(value: object) -> None:
    assert same(unpack(pack(value)), value)


@given(st.binary(max_size=200))
@example(b"s\x02\0\0\0\xed\xa0")  # half a surrogate pair
@example(b"{\x01\0\0\0[\0\0\0\0N")  # a list as a key
def test_any_bytes_are_a_value_or_raise_protocol_error(data: bytes) -> None:
    try:
        value = unpack(data)
    except ProtocolError:
        return
    assert same(unpack(pack(value)), value)


@given(plain, st.data())
def test_a_changed_byte_gives_a_value_or_raises_protocol_error(value: object, data: st.DataObject) -> None:
    packed = bytearray(pack(value))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        found = unpack(bytes(packed))
        assert same(unpack(pack(found)), found)


@given(plain, st.data())
def test_a_truncated_value_raises(value: object, data: st.DataObject) -> None:
    packed = pack(value)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ProtocolError):
        unpack(packed[:cut])


@given(plain, st.binary(min_size=1, max_size=4))
def test_bytes_after_a_value_raise(value: object, rest: bytes) -> None:
    with pytest.raises(ProtocolError, match="follow"):
        unpack(pack(value) + rest)


@given(plain, st.binary(max_size=8))
def test_unpack_starts_at_the_given_index(value: object, before: bytes) -> None:
    assert same(unpack(before + pack(value), len(before)), value)


@pytest.mark.parametrize("tag", [b"s", b"b", b"I", b"(", b"[", b"{"])
@pytest.mark.parametrize("claimed", [6, 1 << 20, 0xFFFFFFFF])
def test_a_length_beyond_the_data_is_rejected_before_allocation(tag: bytes, claimed: int) -> None:
    with pytest.raises(ProtocolError, match=f"a length of {claimed}, but only 5 bytes are left"):
        unpack(struct.pack("<cI", tag, claimed) + b"NNNNN")


def nested(levels: int) -> object:
    value: object = "core"
    for _ in range(levels):
        value = [value]
    return value


def test_both_sides_limit_the_nesting_depth() -> None:
    assert unpack(pack(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(NotPlain, match="nested deeper"):
        pack(nested(MAX_DEPTH + 1))
    with pytest.raises(ProtocolError, match="nested deeper"):
        unpack(b"[\x01\0\0\0" * 100_000 + b"N")


def test_a_value_that_contains_itself_is_not_plain() -> None:
    loop: list[object] = []
    loop.append(loop)
    table: dict[str, object] = {}
    table["self"] = table
    for value in (loop, table):
        with pytest.raises(NotPlain):
            pack(value)


_SAME: tuple[int, ...] = (0, *(sign * number * sys.hash_info.modulus for number in range(1, 5) for sign in (1, -1)))
"""Numbers of 64 bits whose hash is 0."""


@pytest.mark.parametrize(
    "keys",
    [
        [number * sys.hash_info.modulus for number in range(1, 100)],
        list(itertools.product(_SAME, repeat=3)),
        [((key, 1), b"") for key in itertools.product(_SAME, repeat=2)],
    ],
    ids=["numbers", "tuples", "nested"],
)
def test_both_sides_limit_the_keys_of_one_hash(keys: list[object]) -> None:
    """The time to make a dict of such keys is quadratic: a frame of 2 MiB took minutes."""
    allowed = dict.fromkeys([*keys[: MAX_COLLIDING + 1], *range(1, 3000), *map(str, keys)])
    assert unpack(pack(allowed)) == allowed
    keys = keys[: MAX_COLLIDING + 2]
    with pytest.raises(NotPlain, match="the same hash"):
        pack(dict.fromkeys(keys))
    packed = b"{" + struct.pack("<I", len(keys)) + b"".join(pack(key) + b"N" for key in keys)
    with pytest.raises(ProtocolError, match="the same hash"):
        unpack(packed)


class Styled(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


class Level(IntEnum):
    LOW = 1


class Word(str, Enum):
    YES = "yes"


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Styled("text"),
        Level.LOW,
        Word.YES,
        OrderedDict(),
        Point(1),
        {1},
        frozenset(),
        bytearray(),
        memoryview(b""),
        1j,
        range(3),
        len,
        int,
        Exception(),
        mock.Mock(spec=str),
        mock.Mock(spec=int),
        mock.MagicMock(spec=dict),  # the __class__ of a mock is not its type
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_not_plain(value: object) -> None:
    for each in (value, [value], (1, value), {"key": value}):
        with pytest.raises(NotPlain):
            pack(each)
    if type(value).__hash__ is not None:
        with pytest.raises(NotPlain):
            pack({value: 1})
