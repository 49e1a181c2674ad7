"""Acknowledgements: which members a flush, a command or a switch still waits for. Pure: events and the time are passed in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

A = TypeVar("A")
"""What is noted of a member that is no longer waited for."""

Answers = dict[Hashable, "str | bytes | None"]
"""For each member that got a command: None if it applied the command, a text that says why not, or bytes that it returned."""

UNANSWERED: Final = "did not answer in time; it may be stopped, or hold the GIL in native code"

FIRST_REQUEST: Final = 1 << 32
"""Requests (commands and switches) have numbers from here on, which keeps them apart from the versions of flushes."""


def is_request(number: int) -> bool:
    """Return whether a number is that of a request, and not the version of a flush."""
    return number >= FIRST_REQUEST


@dataclass(eq=False)
class Pending(Generic[A]):
    """A flush, command or switch that waits for answers. Each member is either in `waiting` or has one of the `answers`."""

    number: int
    future: Future[Any]
    started: float
    deadline: float
    waiting: set[Hashable]
    answers: dict[Hashable, A]

    def members(self, answer: A) -> list[Hashable]:
        """Return the members with this answer."""
        return [member for member, each in self.answers.items() if each == answer]


class Acknowledgements(Generic[A]):
    """The flushes, commands and switches that wait for answers. Not thread-safe: one owner.

    Members are any hashable objects. Numbers rise, and an answer to number N counts for N only. `complete` is called once for
    each `Pending`, when no member is left to wait for. It must not raise.
    """

    def __init__(self, complete: Callable[[Pending[A]], object], numbers: Iterator[int]) -> None:
        self._complete = complete
        self._numbers = numbers
        self._open: dict[int, Pending[A]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def number(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    def start(
        self,
        number: int,
        future: Future[Any],
        members: Iterable[Hashable],
        *,
        answers: Mapping[Any, A] | None = None,
        started: float = 0.0,
        deadline: float = float("inf"),
    ) -> None:
        """Wait until `deadline` for `members`, except for those that have one of the `answers` already."""
        known = dict(answers or {})
        pending = self._open[number] = Pending(number, future, started, deadline, set(members) - known.keys(), known)
        self._check(pending)

    def of(self, future: Future[Any]) -> Pending[A] | None:
        """Return what is pending for a future. Any thread."""
        return next((pending for pending in tuple(self._open.values()) if pending.future is future), None)

    def note(self, number: int, member: Hashable, answer: A) -> None:
        """Note the answer of `member`. An answer that is not waited for has no effect."""
        pending = self._open.get(number)
        if pending is not None and member in pending.waiting:
            pending.waiting.discard(member)
            pending.answers[member] = answer
            self._check(pending)

    def note_all(self, member: Hashable, answer: A) -> None:
        """Note the same answer of `member`, which has ended, wherever it is waited for."""
        for number in tuple(self._open):
            self.note(number, member, answer)

    def give_up(self, number: int, answer: A) -> None:
        """Stop waiting: the remaining members get `answer`."""
        pending = self._open.get(number)
        for member in tuple(pending.waiting) if pending is not None else ():
            self.note(number, member, answer)

    def expire(self, now: float, answer: A) -> None:
        """Give up what is past its deadline."""
        for pending in tuple(self._open.values()):
            if now >= pending.deadline:
                self.give_up(pending.number, answer)

    def close(self, answer: A) -> None:
        """Give up everything, because the owner stops."""
        for number in tuple(self._open):
            self.give_up(number, answer)

    def waiting(self, number: int) -> list[Any]:
        """Return the members that are waited for."""
        pending = self._open.get(number)
        return [] if pending is None else list(pending.waiting)

    def waiting_for(self, member: Hashable) -> list[int]:
        """Return the numbers of what waits for `member`, oldest first."""
        return [number for number, pending in self._open.items() if member in pending.waiting]

    @property
    def deadline(self) -> float | None:
        """When `expire` next has something to give up, or None."""
        return min((pending.deadline for pending in self._open.values()), default=None)

    def _check(self, pending: Pending[A]) -> None:
        if not pending.waiting:
            del self._open[pending.number]
            self._complete(pending)
