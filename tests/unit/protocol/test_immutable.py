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


def test_fields_by_position_by_name_and_by_default() -> None:
    assert Point(1, y=3).fields() == {"x": 1, "y": 3, "key": "hush", "seen": []}
    assert Named(1, 2, "k", [4], "corner").fields() == {"x": 1, "y": 2, "key": "k", "seen": [4], "name": "corner"}


def test_a_default_factory_makes_one_value_per_object() -> None:
    Point(1).seen.append(5)
    assert Point(1).seen == []


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [((), {}, "lacks x"), ((1, 2, "", [], 0), {}, "takes x"), ((1,), {"x": 2}, "each once"), ((1,), {"z": 2}, "takes x")],
)
def test_invalid_arguments_are_rejected(values: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Point(*values, **named)


def test_only_a_copy_can_have_other_values() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # type: ignore[misc]  # it raises
    with pytest.raises(AttributeError, match="frozen"):
        del point.x
    assert (point.replaced(y=5).y, point.y) == (5, 2)


def test_objects_of_one_class_with_equal_fields_are_equal() -> None:
    assert Point(1) == Point(1) != Point(2)
    assert Point(1) != Named(1)
    assert len({Single(1), Single(1), Single(2)}) == 2


def test_repr_omits_secret_fields() -> None:
    assert repr(Point(1, key="of a user")) == "Point(x=1, y=2, seen=[])"
