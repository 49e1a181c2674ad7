"""A signal handler may log, raise, or both, between any two steps of a change of segments."""

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
    """Call `act` at this step of a change of segments; yield a list that is empty until then."""
    counted = itertools.count()
    reached: list[int] = []

    def now() -> bool:
        return next(counted) == step

    def once() -> None:
        reached.append(step)
        sys.settrace(None)
        act()

    at_a_step_of(CHANGE, now, once)
    try:
        yield reached
    finally:
        sys.settrace(None)
        threading.settrace(None)


class Life:
    """A journal that is written and shipped, before the interrupt and for long after it."""

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
    """Yield lives in which a change of segments was interrupted, one for each step."""
    for step in itertools.count():
        life = Life(path / f"journal-{step}", overwrite)
        for _ in range(2):
            life.log()
        with interrupted(step, lambda life=life: act(life)) as reached:  # type: ignore[misc]  # the default binds it
            for _ in range(3):
                try:
                    life.log()
                except Interrupt:
                    continue
        yield life
        life.journal.close()
        if not reached:
            assert step > 50, "the change has more steps"
            return


@pytest.mark.parametrize("size", [LARGE, 24, CAPACITY])
@pytest.mark.parametrize("raises", [False, True], ids=["logs", "logs and raises"])
def test_interrupt_of_a_change_of_segments_may_log(raises: bool, size: int, tmp_path: Path) -> None:
    def act(life: Life) -> None:
        life.interrupted = life.latest
        life.log(size)
        life.log(size)
        if raises:
            raise Interrupt

    for life in every_step(tmp_path, False, act):
        found = recovered(life.journal.path)
        assert set(life.returned) <= set(found), "only the interrupted call may be missing"
        assert len(found) == len(set(found))
        # Without the interrupted call, which began before the others and ended after them.
        others = [number for number in found if number != life.interrupted]
        assert others == sorted(others)
        life.ship()
        assert life.got == found
        # No segment was lost: the journal has its full capacity.
        before = len(life.got)
        for _ in range(SEGMENTS - 1):
            life.log(CAPACITY)
        life.ship()
        assert len(life.got) == before + SEGMENTS - 1


def test_interrupt_of_a_change_of_segments_may_raise(tmp_path: Path) -> None:
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


def test_flight_recorder_survives_interrupt(tmp_path: Path) -> None:
    def act(life: Life) -> None:
        life.log()
        raise Interrupt

    for life in every_step(tmp_path, True, act):
        for _ in range(3 * SEGMENTS):
            life.log(CAPACITY)
        found = recovered(life.journal.path)
        assert found == life.returned[-len(found) :]
        assert len(found) >= SEGMENTS - 1


def test_interrupted_drop_count_is_exact(tmp_path: Path) -> None:
    names = {"writer.count_drop", "writer.count"}
    other = Journal(None, SIZE)
    for step in itertools.count():
        journal = Journal(str(tmp_path / f"journal-{step}"), SIZE)
        counted = itertools.count()

        def again(journal: Journal = journal) -> None:
            sys.settrace(None)
            journal.count_drop("full", 20)

        reached: list[int] = []

        def now(step: int = step, counted: Iterator[int] = counted, reached: list[int] = reached) -> bool:
            if next(counted) == step:
                reached.append(step)
            return bool(reached)

        # Python 3.12 and later report no steps of a function in the call in which its tracing begins.
        at_a_step_of(names, lambda: False, again)
        other.count_drop("full", 20)
        at_a_step_of(names, now, again)
        try:
            journal.count_drop("full", 20)
        finally:
            sys.settrace(None)
            threading.settrace(None)
        assert JournalReader(str(journal.path)).drops() == [("full", 20, 1 + len(reached))] == journal.drops()
        journal.close()
        if not reached:
            assert step > 20
            return
