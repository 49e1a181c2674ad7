"""Pickling of calls and results, where it differs from dill."""

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
    """Definitions of a script, which no process can import."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SCRIPT, "script.py", "exec"), names)
    return types.SimpleNamespace(**names)


@pytest.fixture
def in_a_proc(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Any]:
    """Return a function that returns its argument as loaded in a new proc."""
    monkeypatch.setattr(pickling, "_shared", {})

    def load(value: object) -> Any:
        data = dumps(value)
        monkeypatch.setattr(pickling, "_classes", {})
        return loads(data)

    return load


def run_script(source: str) -> types.SimpleNamespace:
    """Return the definitions of a script that has not imported anything from `__future__`."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "script.py", "exec", dont_inherit=True), names)
    return types.SimpleNamespace(**names)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they are written")
def test_annotations_can_name_their_own_class_and_what_cannot_be_imported(in_a_proc: Callable[[object], Any]) -> None:
    script = run_script(
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Node:\n"
        "    parent: Node | None = None\n"
        "    def child(self) -> Node: return Node(self)\n"
        "def checked(value: OnlyForTypeCheckers) -> int: return value + 1\n"
        "def rooted(node: Node) -> bool: return node.parent is None\n"
    )
    node_class, checked, rooted = in_a_proc((script.Node, script.checked, script.rooted))
    assert node_class().child() == node_class(node_class())
    assert node_class.child.__annotations__ == {"return": node_class}
    assert checked(1) == 2
    assert checked.__annotations__ == {"value": "OnlyForTypeCheckers", "return": "int"}
    assert rooted(node_class())
    assert rooted.__annotations__ == {"node": node_class, "return": bool}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no type parameters")
def test_a_function_with_type_parameters_is_pickled(in_a_proc: Callable[[object], Any]) -> None:
    script = run_script("def listed[T](value: T) -> list[T]: return [value]")
    listed = in_a_proc(script.listed)
    assert listed(5) == [5]
    assert listed.__annotations__["value"] is listed.__type_params__[0]


@pytest.mark.skipif(sys.version_info < (3, 15), reason="no lazy imports")
def test_a_lazily_imported_module_is_pickled_by_name(in_a_proc: Callable[[object], Any]) -> None:
    script = run_script("lazy import colorsys\ndef grey(): return colorsys.rgb_to_hls(0, 0, 0)")
    assert in_a_proc(script.grey)() == (0, 0, 0)


def test_mutually_recursive_functions_are_pickled(script: types.SimpleNamespace) -> None:
    assert loads(dumps(script.even))(7) is False


def test_globals_are_found_without_replacing_stdout(script: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import dill.temp

    def capture(stream: str) -> NoReturn:
        raise AssertionError(f"{stream} was replaced, for all threads")

    monkeypatch.setattr(dill.temp, "capture", capture)
    assert loads(dumps(script.scale))(2) == 20


def test_a_class_is_created_once_and_keeps_its_identity(script: types.SimpleNamespace) -> None:
    assert loads(dumps(script.Point)) is script.Point
    assert loads(dumps(script.Point(3))) == script.Point(3)
    assert loads(dumps(script.Colour.RED)) is script.Colour.RED
    assert isinstance(loads(dumps(script.Pair(1))), script.Pair)


def test_a_class_works_in_a_proc_that_did_not_define_it(
    script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]
) -> None:
    point_class, colour_class, pair_class = in_a_proc((script.Point, script.Colour, script.Pair))
    assert point_class is not script.Point
    assert point_class.origin() == point_class(0)
    assert point_class(3).moved == point_class(13)
    assert point_class(3).twice == point_class(6)
    assert colour_class.RED.other() is colour_class.RED
    assert pair_class(2).b == point_class(1)
    assert point_class[int](1) == point_class(1)


def test_a_received_class_is_returned_by_its_key(script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]) -> None:
    made = in_a_proc(script.Point)
    assert len(dumps(made)) < 200
    assert loads(dumps(made)) is made
    assert loads(dumps(script.Point)) is made


def test_a_global_created_in_a_proc_persists_there(script: types.SimpleNamespace, in_a_proc: Callable[[object], Any]) -> None:
    assert [in_a_proc(script.count)() for _ in range(3)] == [1, 2, 3]


def test_outside_a_proc_functions_do_not_share_globals(script: types.SimpleNamespace) -> None:
    data = dumps(script.count)
    assert [loads(data)() for _ in range(2)] == [1, 1]
    assert not hasattr(script, "counted")


class Record(NamedTuple):
    """A class that can be imported."""

    number: int


def test_a_lock_is_unlocked_after_loading() -> None:
    lock = loads(dumps(threading.RLock()))
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    assert taken == [True]


def test_a_module_is_pickled_by_name() -> None:
    assert loads(dumps(sys.modules[__name__])) is sys.modules[__name__]
    assert len(dumps(sys.modules[__name__])) < 200


def test_a_file_without_a_path_cannot_be_pickled() -> None:
    read_end, write_end = os.pipe()
    with open(read_end) as reader, open(write_end, "w") as writer:
        for file in (reader, writer, reader.buffer):
            with pytest.raises(TypeError, match="an open file without a path cannot be pickled"):
                dumps([file])


def test_importable_results_use_the_c_pickler() -> None:
    value = {"record": Record(1), "numbers": list(range(10))}
    assert dumps_result(value) == pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    assert loads(dumps_result(value)) == value
    assert loads(dumps_result(lambda: 5))() == 5


def test_a_partial_and_a_closure_are_pickled() -> None:
    offset = 5

    def add(a: int, b: int) -> int:
        return a + b + offset

    assert loads(dumps(functools.partial(add, 1)))(2) == 8


def test_a_recursive_closure_is_pickled() -> None:
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
def test_importable_objects_are_pickled_by_name(value: object) -> None:
    assert loads(dumps(value)) == value
    assert len(dumps(value)) < 300


def iter_nothing() -> Iterator[int]:
    yield from ()


def test_the_error_for_an_unpicklable_call_gives_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"getpid cannot be sent to the procs.*generator.*create them in the function"):
        dumps_call(os.getpid, [iter_nothing()], {})
    with pytest.raises(TypeError, match="3 is not callable"):
        dumps_call(3, (), {})  # type: ignore[arg-type]  # the mistake under test
