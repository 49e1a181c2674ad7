from __future__ import annotations

from typing import Any, ClassVar

import pytest

from meshlog_handler.protocol.immutable import Immutable, field


class Point(Immutable):
    secret: ClassVar = frozenset(("key",))
    x: int
    y: int = 2
    key: str = "hush"
    seen: list[int] = field(default_factory=list)


class Named(Point):
    name: str = "origin"


class Single(Immutable):
    number: int


def test_fields_are_given_by_position_or_name_and_have_defaults() -> None:
    assert Point(1, y=3).fields() == {"x": 1, "y": 3, "key": "hush", "seen": []}
    assert Named(1, 2, "k", [4], "corner").fields() == {"x": 1, "y": 2, "key": "k", "seen": [4], "name": "corner"}


def test_a_default_that_can_change_is_each_ones_own() -> None:
    Point(1).seen.append(5)
    assert Point(1).seen == []


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [((), {}, "lacks x"), ((1, 2, "", [], 0), {}, "takes x"), ((1,), {"x": 2}, "each once"), ((1,), {"z": 2}, "takes x")],
)
def test_what_does_not_fit_is_refused(values: tuple[Any, ...], named: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*values, **named)


def test_nothing_can_be_changed_but_in_a_copy() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # type: ignore[misc]  # what is tested
    with pytest.raises(AttributeError, match="frozen"):
        del point.x
    assert (point.replaced(y=5).y, point.y) == (5, 2)


def test_those_of_one_class_with_equal_fields_are_equal() -> None:
    assert Point(1) == Point(1) != Point(2)
    assert Point(1) != Named(1)
    assert len({Single(1), Single(1), Single(2)}) == 2


def test_what_is_secret_is_not_spelled() -> None:
    assert repr(Point(1, key="of the house")) == "Point(x=1, y=2, seen=[])"
