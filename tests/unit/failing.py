"""Functions that fail in all the ways there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class OwnError(ValueError):
    """A program's own."""


class Outer:
    class InnerError(Exception):
        """One whose name has a dot."""


def over_lines() -> Any:
    number: Any = 1
    return number + (
        number
        / 0
    )  # fmt: skip


def with_a_cause() -> None:
    try:
        over_lines()
    except ZeroDivisionError as failure:
        raise OwnError("first line\nsecond line") from failure


def with_a_context() -> None:
    try:
        with_a_cause()
    except OwnError:
        {"a": 1}["größe"]


def without_context() -> None:
    try:
        over_lines()
    except ZeroDivisionError:
        raise Outer.InnerError from None


def deep(left: int = 20) -> int:
    return deep(left - 1) if left else int("no number")


def of_a_file() -> None:
    open("/nonexistent/file").close()


def of_text() -> str:
    return b"\xff".decode()


def misspelt() -> object:
    return object().__strr__  # type: ignore[attr-defined]  # the mistake


def interrupted() -> None:
    raise KeyboardInterrupt


def of_compiled_text() -> None:
    exec(compile("\n\n1 / 0", "<text>", "exec"))


def with_notes() -> None:
    failure = OwnError("x")
    failure.add_note("a note\nof two lines")  # type: ignore[attr-defined]  # from Python 3.11 on
    raise failure


def many() -> None:
    failures = []
    for function in (with_a_cause, of_text):
        try:
            function()
        except Exception as failure:
            failures.append(failure)
    raise ExceptionGroup("many", failures)  # type: ignore[name-defined]  # noqa: F821 - from Python 3.11 on


def of_syntax() -> None:
    compile("number = 1\nother = (number + ] 3)", "source.py", "exec")


def of_indentation() -> None:
    compile("if 1:\nnumber = 1", "größe.py", "exec")


def of_syntax_elsewhere() -> None:
    raise SyntaxError("not a template", ("page.html", 12, 3, "{{ name }", 12, 9))


def of_syntax_without_a_place() -> None:
    raise SyntaxError("no place")


def with_a_text_as_notes() -> None:
    failure: Any = OwnError("x")
    failure.__notes__ = "a note"
    raise failure


def with_a_number_as_notes() -> None:
    failure: Any = OwnError("x")
    failure.__notes__ = 5
    raise failure


class Unwritten:
    def __str__(self) -> str:
        raise ValueError


def with_a_note_without_text() -> None:
    failure: Any = OwnError("x")
    failure.__notes__ = ["first", Unwritten(), 3]
    raise failure


ALL: list[Callable[[], Any]] = [
    over_lines,
    with_a_cause,
    with_a_context,
    without_context,
    deep,
    of_a_file,
    of_text,
    misspelt,
    interrupted,
    of_compiled_text,
    of_syntax,
    of_indentation,
    of_syntax_elsewhere,
    of_syntax_without_a_place,
    with_a_text_as_notes,
    with_a_number_as_notes,
    with_a_note_without_text,
]
if sys.version_info >= (3, 11):
    ALL += [with_notes, many]


def caught(function: Callable[[], Any]) -> Any:
    """Return exception information of a function that fails."""
    try:
        function()
    except BaseException:
        return sys.exc_info()
    raise AssertionError(f"{function} does not fail")
