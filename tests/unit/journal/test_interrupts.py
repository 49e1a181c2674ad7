"""Between any two steps of a change of segments a signal handler may come in: it logs, or it raises, or both."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshlog_handler.journal.layout import SEGMENTS, START
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.journal.writer import Journal

from ...stress.opcodes import at_a_step_of
from .test_journal import CAPACITY, SIZE, append, entry, numbers, recovered

CHANGE = {
    "writer.rotate",
    "writer._choose",
    "writer._open",
    "writer._map_anew",
    "writer._map",
    "writer.close",
    "writer._latest",
    "writer._chain",
    "writer.__init__",
}
LARGE = CAPACITY // 3


class Interrupt(Exception):
    """Raised by a signal handler."""


@contextmanager
def interrupted(step: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Let `act` happen before so many steps of a change of segments; yields a list that is empty until then."""
    counted = itertools.count()
    came: list[int] = []

    def now() -> bool:
        return next(counted) == step

    def once() -> None:
        came.append(step)
        sys.settrace(None)
        act()

    at_a_step_of(CHANGE, now, once)
    try:
        yield came
    finally:
        sys.settrace(None)
        threading.settrace(None)


class Life:
    """A journal that is written, shipped, and goes on for long after the interrupt."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.journal = Journal(str(path), SIZE)
        self.overwrite = overwrite
        self.count = itertools.count()
        self.latest = self.interrupted = -1
        self.returned: list[int] = []
        self.got: list[int] = []
        self.position = (0, START)

    def log(self, size: int = LARGE) -> None:
        self.latest = number = next(self.count)
        assert append(self.journal, entry(number, size), overwrite=self.overwrite)
        self.returned.append(number)

    def ship(self) -> None:
        while (piece := self.journal.unshipped(1 << 20)) is not None:
            self.got += numbers(piece.data)
            self.position = piece.generation, piece.start + len(piece.data)
            self.journal.shipped(piece)


def every_step(path: Path, overwrite: bool, act: Callable[[Life], object]) -> Iterator[Life]:
    """Yield lives in which a change of segments was interrupted, each at another step, until there is no such step."""
    for step in itertools.count():
        life = Life(path / f"journal-{step}", overwrite)
        for _ in range(2):
            life.log()
        with interrupted(step, lambda life=life: act(life)) as came:  # type: ignore[misc]  # a default binds it
            for _ in range(3):
                try:
                    life.log()
                except Interrupt:
                    continue
        yield life
        life.journal.close()
        if not came:
            assert step > 50, "these are the steps"
            return


@pytest.mark.parametrize("size", [LARGE, 24, CAPACITY])
@pytest.mark.parametrize("raises", [False, True], ids=["logs", "logs and raises"])
def test_what_interrupts_a_change_of_segments_may_log(raises: bool, size: int, tmp_path: Path) -> None:
    def act(life: Life) -> None:
        life.interrupted = life.latest
        life.log(size)
        life.log(size)
        if raises:
            raise Interrupt

    for life in every_step(tmp_path, False, act):
        found = recovered(life.journal.path)
        assert set(life.returned) <= set(found), "of a call that was ended by an error, nobody knows"
        assert len(found) == len(set(found))
        # All but the call that was interrupted, which began before the others and ended after them.
        calm = [number for number in found if number != life.interrupted]
        assert calm == sorted(calm)
        life.ship()
        assert life.got == found
        # Not a segment was lost: it holds as much as ever.
        before = len(life.got)
        for _ in range(SEGMENTS - 1):
            life.log(CAPACITY)
        life.ship()
        assert len(life.got) == before + SEGMENTS - 1


def test_what_interrupts_a_change_of_segments_may_raise(tmp_path: Path) -> None:
    def act(life: Life) -> None:
        raise Interrupt

    for life in every_step(tmp_path, False, act):
        assert set(life.returned) <= set(recovered(life.journal.path))
        life.ship()
        assert life.got == sorted(life.got)
        assert set(life.returned) <= set(life.got)
        before = len(life.got)
        for _ in range(SEGMENTS - 1):
            life.log(CAPACITY)
        life.ship()
        assert len(life.got) == before + SEGMENTS - 1


def test_a_flight_recorder_survives_it_too(tmp_path: Path) -> None:
    def act(life: Life) -> None:
        life.log()
        raise Interrupt

    for life in every_step(tmp_path, True, act):
        for _ in range(3 * SEGMENTS):
            life.log(CAPACITY)
        found = recovered(life.journal.path)
        assert found == life.returned[-len(found) :]
        assert len(found) >= SEGMENTS - 1


def test_two_calls_that_count_a_drop_at_once_are_two(tmp_path: Path) -> None:
    names = {"writer.count_drop", "writer.count"}
    other = Journal(None, SIZE)
    for step in itertools.count():
        journal = Journal(str(tmp_path / f"journal-{step}"), SIZE)
        counted = itertools.count()

        def again(journal: Journal = journal) -> None:
            sys.settrace(None)
            journal.count_drop("full", 20)

        came: list[int] = []

        def now(step: int = step, counted: Iterator[int] = counted, came: list[int] = came) -> bool:
            if next(counted) == step:
                came.append(step)
            return bool(came)

        # Python 3.12 and later tell of no step of a function when they begin to trace it.
        at_a_step_of(names, lambda: False, again)
        other.count_drop("full", 20)
        at_a_step_of(names, now, again)
        try:
            journal.count_drop("full", 20)
        finally:
            sys.settrace(None)
            threading.settrace(None)
        assert JournalReader(str(journal.path)).drops() == [("full", 20, 1 + len(came))] == journal.drops()
        journal.close()
        if not came:
            assert step > 20
            return
