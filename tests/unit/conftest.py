"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlog_handler.worker import record_stream
from meshlog_handler.worker.record_stream import OnFull

from .one_proc import Proc


@pytest.fixture
def procs(tmp_path: Path) -> Iterator[Callable[..., Proc]]:
    """Makes procs; where `file` is false, with a journal that is mere memory."""
    made: list[Proc] = []

    def make_one(on_full: OnFull = "block", *, file: bool = True) -> Proc:
        made.append(Proc(str(tmp_path / f"journal{len(made)}") if file else None, on_full))
        return made[-1]

    yield make_one
    for each in made:
        each.close()


@pytest.fixture
def proc(procs: Callable[..., Proc]) -> Proc:
    """A proc whose logging calls wait for room."""
    return procs()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a stream says on the original stderr."""
    texts: list[str] = []
    monkeypatch.setattr(record_stream, "diagnose", texts.append)
    return texts
