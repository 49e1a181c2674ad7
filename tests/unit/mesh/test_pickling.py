"""Calls and results as pickles: what dill does in another way than a mesh needs."""

from __future__ import annotations

import enum
import functools
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import pytest

from meshlog_handler.mesh import pickling
from meshlog_handler.mesh.pickling import dumps, dumps_call, dumps_result, loads

SCRIPT = """
import dataclasses, enum, functools, typing

T = typing.TypeVar("T", bound=int)
BASE = 10

class Colour(enum.Enum):
    RED = 1
    def other(self):
        return DEFAULT

DEFAULT = Colour.RED

@dataclasses.dataclass
class Point(typing.Generic[T]):
    x: T
    @classmethod
    def origin(cls):
        return cls(0)
    @property
    def moved(self):
        return Point(self.x + BASE)
    @functools.cached_property
    def twice(self):
        return Point(2 * self.x)

class Pair(typing.NamedTuple):
    a: int
    b: Point = Point(1)

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def count():
    global counted
    try:
        counted += 1
    except NameError:
        counted = 1
    return counted

def scale(n):
    class Scaled(Point):
        factor = BASE
    return Scaled(n).factor * n
"""


@pytest.fixture
def script() -> types.SimpleNamespace:
    """What a script defines, of which no process can import anything."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SCRIPT, "script.py", "exec"), names)
    return types.SimpleNamespace(**names)


@pytest.fixture
def in_a_proc(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Any]:
    """Return a function that returns what arrives in a proc that has not seen anything yet."""
    monkeypatch.setattr(pickling, "_shared", {})

    def arrive(value: object) -> Any:
        data = dumps(value)
        monkeypatch.setattr(pickling, "_classes", {})
        return loads(data)

    return arrive


def test_functions_that_call_each_other_travel(script: types.SimpleNamespace) -> None:
    assert loads(dumps(script.even))(7) is False


def test_globals_are_found_without_a_stand_in_for_stdout(
    script: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dill.temp

    def capture(stream: str) -> NoReturn:
        raise AssertionError(f"{stream} was led elsewhere, for all threads")

    monkeypatch.setattr(dill.temp, "capture", capture)
    assert loads(dumps(script.scale))(2) == 20


def test_a_class_is_made_once_and_stays_itself(script: types.SimpleNamespace) -> None:
    assert loads(dumps(script.Point)) is script.Point
    assert loads(dumps(script.Point(3))) == script.Point(3)
    assert loads(dumps(script.Colour.RED)) is script.Colour.RED
    assert isinstance(loads(dumps(script.Pair(1))), script.Pair)


def test_a_class_works_where_it_was_not_defined(script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]) -> None:
    point_class, colour_class, pair_class = in_a_proc((script.Point, script.Colour, script.Pair))
    assert point_class is not script.Point
    assert point_class.origin() == point_class(0)
    assert point_class(3).moved == point_class(13)
    assert point_class(3).twice == point_class(6)
    assert colour_class.RED.other() is colour_class.RED
    assert pair_class(2).b == point_class(1)
    assert point_class[int](1) == point_class(1)


def test_what_came_goes_back_by_its_name(script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]) -> None:
    made = in_a_proc(script.Point)
    assert len(dumps(made)) < 200
    assert loads(dumps(made)) is made
    assert loads(dumps(script.Point)) is made


def test_in_a_proc_a_global_that_only_it_knows_stays(script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]) -> None:
    assert [in_a_proc(script.count)() for _ in range(3)] == [1, 2, 3]


def test_elsewhere_every_function_has_globals_of_its_own(script: types.SimpleNamespace) -> None:
    data = dumps(script.count)
    assert [loads(data)() for _ in range(2)] == [1, 1]
    assert not hasattr(script, "counted")


class Record(NamedTuple):
    """A class that can be imported."""

    number: int


def test_a_lock_arrives_free() -> None:
    lock = loads(dumps(threading.RLock()))
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    assert taken == [True]


def test_a_module_travels_by_its_name() -> None:
    assert loads(dumps(sys.modules[__name__])) is sys.modules[__name__]
    assert len(dumps(sys.modules[__name__])) < 200


def test_a_file_that_has_only_a_number_does_not_travel() -> None:
    read_end, write_end = os.pipe()
    with open(read_end) as reader, open(write_end, "w") as writer:
        for file in (reader, writer, reader.buffer):
            with pytest.raises(TypeError, match="an open file without a path cannot be pickled"):
                dumps([file])


def test_results_that_can_be_imported_take_the_short_way() -> None:
    value = {"record": Record(1), "numbers": list(range(10))}
    assert dumps_result(value) == pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    assert loads(dumps_result(value)) == value
    assert loads(dumps_result(lambda: 5))() == 5


def test_a_partial_and_a_closure_travel() -> None:
    offset = 5

    def add(a: int, b: int) -> int:
        return a + b + offset

    assert loads(dumps(functools.partial(add, 1)))(2) == 8


def test_a_closure_that_refers_to_itself_travels() -> None:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert loads(dumps(factorial))(5) == 120


class Flavour(enum.Flag):
    """An enumeration that can be imported."""

    SWEET = 1
    SOUR = 2


V = TypeVar("V")


class Box(Generic[V]):
    """A generic class that can be imported."""


@pytest.mark.parametrize("value", [Flavour.SWEET | Flavour.SOUR, Record, Box[int], V, len, types.FunctionType])
def test_what_can_be_imported_travels_by_its_name(value: object) -> None:
    assert loads(dumps(value)) == value
    assert len(dumps(value)) < 300


def iter_nothing() -> Iterator[int]:
    yield from ()


def test_a_call_that_cannot_travel_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"getpid cannot be sent to the procs.*generator.*create them in the function"):
        dumps_call(os.getpid, [iter_nothing()], {})
    with pytest.raises(TypeError, match="3 is not callable"):
        dumps_call(3, (), {})  # type: ignore[arg-type]  # the mistake
