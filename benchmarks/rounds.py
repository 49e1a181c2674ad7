"""Turns, rounds and rows: subjects are measured one after the other, round after round, and compared within a round.

A ratio is the median of the ratios of all rounds, because the machine changes more between rounds than within one. The
spread is always the least and the greatest, never a deviation: a few rounds of a skewed value allow no other honest spread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spread(NamedTuple):
    """The median and the extremes of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    rounds : int
        Turns of each subject.
    quick : bool
        Less work in each turn, and fewer kinds of work: two minutes in all.
    """

    rounds: int
    quick: bool

    @property
    def few(self) -> int:
        """Return the number of rounds for slow or steady work: one in a quick run."""
        return 1 if self.quick else max(1, self.rounds - 2)

    def pick(self, full: T, quick: T) -> T:
        """Return one of the two values, depending on `quick`."""
        return quick if self.quick else full


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    work, subject : str
        The work that was done, and the subject that did it.
    unit : str
    values : list of float
        One for each round, in order; empty if the subject is not available, and `remark` says why.
    bases : tuple of str
        Subjects of the same work that this one is compared with.
    remark : str
    """

    work: str
    subject: str
    unit: str
    values: list[float]
    bases: tuple[str, ...] = ()
    remark: str = ""

    def over(self, base: Row) -> Spread | None:
        """Return this row's values divided by the other row's, round by round; None if one of the rows has no values."""
        ratios = [mine / theirs for mine, theirs in zip(self.values, base.values, strict=False) if theirs]
        return Spread.of(ratios) if ratios else None


@dataclass
class Section:
    """The results of one file: its name, its docstring, its rows, and the seconds it took."""

    name: str
    about: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def find(self, work: str, subject: str) -> Row | None:
        """Return a row that has values, or None."""
        return next((row for row in self.rows if (row.work, row.subject) == (work, subject) and row.values), None)

    def ratio(self, work: str, subject: str, base: str) -> Spread | None:
        """Return the ratio of the subject's value to the base's; None if either is missing."""
        row, other = self.find(work, subject), self.find(work, base)
        return row.over(other) if row is not None and other is not None else None


def in_turn(subjects: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call each subject once a round; return each subject's results, by name, in the order of the rounds.

    Each round begins with another subject: what a subject leaves behind (heat, memory, a backlog) affects all subjects equally.
    """
    names = list(subjects)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            tell(f"  round {turn + 1} of {rounds}: {name}")
            results[name].append(subjects[name]())
    return results


def wait_until(condition: Callable[[], object], timeout: float = 120.0, pause: float = 0.002) -> None:
    """Wait until `condition` holds; raise `TimeoutError` if it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"a benchmark waited {timeout:g} s in vain: {condition!r}")
        time.sleep(pause)


def tell(text: str) -> None:
    """Report progress, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def missing_rows(work: str, unit: str, absent: Mapping[str, str]) -> Iterable[Row]:
    """Return a row without values for each subject that is not available, with the reason."""
    return [Row(work, subject, unit, [], (), reason) for subject, reason in absent.items()]
