"""Tracebacks have the same text as with `traceback`, also if their stack is known already."""

from __future__ import annotations

import builtins
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from meshlog_handler.protocol import traceback_text
from meshlog_handler.protocol.traceback_text import format_exception


def fail(depth: int, value: object) -> None:
    if depth:
        fail(depth - 1, value)
    raise ValueError(value)


def chained(value: object) -> None:
    try:
        fail(2, value)
    except ValueError as error:
        raise KeyError(value) from error


def both(function: Any, *args: Any) -> tuple[str, str]:
    """Return the text of a function's exception by this package and by Python."""
    try:
        function(*args)
    except Exception as error:
        trace = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        return format_exception(trace), "".join(traceback.format_exception(error)).removesuffix("\n")
    raise AssertionError("the function did not raise")


@pytest.mark.parametrize("function", [chained, lambda value: fail(0, value), lambda value: fail(300, value)])
def test_the_text_is_always_that_of_python(function: Any) -> None:
    for value in range(3):
        ours, pythons = both(function, value)
        assert ours == pythons


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with Python 3.11")
def test_each_member_of_a_group_has_a_separate_text() -> None:
    def group(value: int) -> None:
        members: list[Exception] = []
        for depth in range(2):
            try:
                fail(depth, value)
            except ValueError as error:
                members.append(error)
        raise vars(builtins)["ExceptionGroup"]("several", members)

    for value in range(2):
        ours, pythons = both(group, value)
        assert ours == pythons


def module_of(path: Path, text: str, second: int) -> ModuleType:
    path.write_text(text)
    os.utime(path, (second, second))
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_source_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    for number in range(3):
        module = module_of(path, f"def run():\n    raise ValueError  # {number}\n", 1000 + number)
        ours, pythons = both(module.run)
        assert ours == pythons
        assert f"# {number}" in ours


def test_the_number_of_kept_stacks_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceback_text, "_MAX_KNOWN", 4)
    for depth in range(20):
        both(fail, depth, 0)
    assert 0 < len(traceback_text._known) <= 4
