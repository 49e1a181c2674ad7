"""The text of tracebacks is that of `traceback`, also where it is known already."""

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
    """Return our text of what a function raises, and Python's."""
    try:
        function(*args)
    except Exception as error:
        told = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        return format_exception(told), "".join(traceback.format_exception(error)).removesuffix("\n")
    raise AssertionError("it raises")


@pytest.mark.parametrize("function", [chained, lambda value: fail(0, value), lambda value: fail(300, value)])
def test_the_text_is_pythons_the_first_time_and_later(function: Any) -> None:
    for value in range(3):
        ours, pythons = both(function, value)
        assert ours == pythons


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with Python 3.11")
def test_of_a_group_each_has_its_own() -> None:
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


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceback_text, "_MAX_KNOWN", 4)
    for depth in range(20):
        both(fail, depth, 0)
    assert 0 < len(traceback_text._known) <= 4
