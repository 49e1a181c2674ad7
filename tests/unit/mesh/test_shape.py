"""Shapes: ranks in row-major order, coordinates and slices."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler import SettingError
from meshlog_handler.mesh.shape import Shape, check_per_host

sizes = st.dictionaries(st.sampled_from(["hosts", "gpus", "slots"]), st.integers(1, 4), min_size=1)


class Place(IntEnum):
    THIRD = 2


WHOLE = Shape.of({"hosts": 2, "gpus": 4})


@given(sizes)
def test_the_last_dimension_varies_fastest(extent: dict[str, int]) -> None:
    shape = Shape.of(extent)
    assert shape.ranks == tuple(range(math.prod(extent.values())))
    positions = [tuple(position.values()) for position in shape.coords.values()]
    assert positions == sorted(positions)
    assert len(set(positions)) == len(positions)
    assert all(list(position) == list(extent) for position in shape.coords.values())


@given(sizes, st.data())
def test_a_slice_has_the_ranks_at_its_positions_with_their_coordinates(extent: dict[str, int], data: Any) -> None:
    shape = Shape.of(extent)
    name = data.draw(st.sampled_from(sorted(extent)))
    at = data.draw(st.integers(0, extent[name] - 1))
    part = shape.slice(None, {name: at})
    assert part.coords == {rank: position for rank, position in shape.coords.items() if position[name] == at}
    assert part.extent == {each: size for each, size in extent.items() if each != name}


@pytest.mark.parametrize(
    ("ranks", "chosen", "expected", "extent"),
    [
        (None, {}, (0, 1, 2, 3, 4, 5, 6, 7), {"hosts": 2, "gpus": 4}),
        (None, {"hosts": 1}, (4, 5, 6, 7), {"gpus": 4}),
        (None, {"hosts": 1, "gpus": 2}, (6,), {}),
        (None, {"gpus": slice(0, 2)}, (0, 1, 4, 5), {"hosts": 2, "gpus": 2}),
        (None, {"gpus": [3, 0]}, (0, 3, 4, 7), {"hosts": 2, "gpus": 2}),
        (None, {"gpus": slice(-1, None)}, (3, 7), {"hosts": 2, "gpus": 1}),
        ([3, 1], {}, (1, 3), {"ranks": 2}),
        ((rank for rank in (1, 5)), {"hosts": 0}, (1,), {"ranks": 1}),
        (3, {}, (3,), {"ranks": 1}),
        (Place.THIRD, {}, (2,), {"ranks": 1}),
        ([Place.THIRD], {"gpus": Place.THIRD}, (2,), {"ranks": 1}),
    ],
)
def test_a_slice_has_the_chosen_ranks_and_dimensions(
    ranks: Any, chosen: dict[str, Any], expected: tuple[int, ...], extent: dict[str, int]
) -> None:
    part = WHOLE.slice(ranks, chosen)
    assert (part.ranks, part.extent) == (expected, extent)


def test_a_slice_of_a_slice_uses_the_coordinates_of_the_whole() -> None:
    part = WHOLE.slice(None, {"hosts": 1}).slice(None, {"gpus": slice(2, 4)})
    assert part.ranks == (6, 7)
    chosen = WHOLE.slice([1, 5, 6], {})
    assert chosen.slice(None, {"gpus": 1}).ranks == (1, 5)
    assert chosen.slice(None, {"gpus": 1}).extent == {"ranks": 2}


@pytest.mark.parametrize(
    ("ranks", "chosen", "message"),
    [
        (None, {"gpu": 0}, "no dimension 'gpu'. Valid: hosts, gpus, ranks"),
        (None, {"gpus": 4}, "no such position. Valid: 0, 1, 2, 3"),
        (None, {"gpus": -1}, "no such position"),
        (None, {"gpus": []}, "no such position"),
        (None, {"gpus": "0"}, "expected integers"),
        (None, {"gpus": True}, "expected integers"),
        ([8], {}, "no such rank. Valid: any of ranks 0-7"),
        ([], {}, "no such rank"),
        ("3", {}, "expected integers"),
        (True, {}, "expected integers"),
        ([7], {"hosts": 0}, "is empty"),
    ],
)
def test_a_nonexistent_rank_or_position_is_rejected(ranks: Any, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        WHOLE.slice(ranks, chosen)


@pytest.mark.parametrize(
    "per_host",
    [4, None, {}, [("gpus", 4)], {"gpus": 0}, {"gpus": -1}, {"gpus": 1.5}, {"g": True}, {4: "gpu"}, {"a b": 1}, {"ranks": 2}],
)
def test_the_error_for_an_invalid_shape_shows_a_valid_one(per_host: object) -> None:
    with pytest.raises(SettingError, match=r'Valid: .*{"gpus": 4}'):
        check_per_host(per_host)


def test_an_excessive_shape_is_rejected() -> None:
    with pytest.raises(SettingError, match="asks for 10000 procs"):
        check_per_host({"hosts": 100, "gpus": 100})
