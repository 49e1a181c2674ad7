"""Records of killed relays that their workers may send again. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Final

from ...protocol.decode import Item
from ...protocol.relayed_records import RelayedTemplate

MAX_UNCONFIRMED: Final = 256 << 20
"""Bytes of records that are kept, as they were received. Beyond this, the oldest are due at once."""

MAX_SHOWN: Final = 1 << 18
"""Records that were due and are remembered, in case that they come again after all. Beyond this, the oldest are forgotten."""


class _Tail:
    """The records of one relay."""

    def __init__(self, due: float, size: int, items: list[Item]) -> None:
        self.due = due
        self._size_each = size / len(items)
        self.items = dict(enumerate(items))
        self._numbers: dict[int, list[int]] = {}  # by rank
        for number, item in self.items.items():
            for rank in _ranks(item):
                self._numbers.setdefault(rank, []).append(number)

    @property
    def size(self) -> float:
        return self._size_each * len(self.items)

    def drop(self, rank: int) -> None:
        for number in self._numbers.pop(rank, ()):
            self.items.pop(number, None)


class Unconfirmed:
    """What killed relays had passed on after their last boundaries: shown only if their workers do not send it again.

    If it is shown, and a relay that comes late then reads it in a journal, `without_shown` leaves it out.
    """

    def __init__(self) -> None:
        self._tails: list[_Tail] = []  # oldest first
        self._shown: dict[int, Counter[int]] = {}  # by rank: the records, oldest first

    def add(self, items: list[Item], resuming: frozenset[int], due: float, size: int) -> list[Item]:
        """Keep the records of ranks that may resume, until `due`; return the others, which nobody sends again.

        `size` is that of all items in bytes. If too much is kept, the oldest records are returned, too.
        """
        kept = [item for item in items if _ranks(item) & resuming and not _is_captured(item)]
        chosen = set(map(id, kept))
        due_now: list[Item] = []
        if kept:
            self._tails.append(_Tail(due, size * len(kept) // len(items), kept))
        while sum(tail.size for tail in self._tails) > MAX_UNCONFIRMED:
            due_now += self._remember(self._tails.pop(0))
        return [*due_now, *(item for item in items if id(item) not in chosen)]

    def resumed(self, rank: int) -> None:
        """Drop the records of a rank that sends them again."""
        for tail in self._tails:
            tail.drop(rank)
        self._tails = [tail for tail in self._tails if tail.items]

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to return, or None."""
        return min((tail.due for tail in self._tails), default=None)

    def expire(self, now: float) -> list[Item]:
        """Return the records of ranks that have not resumed in time."""
        due = [tail for tail in self._tails if now >= tail.due]
        self._tails = [tail for tail in self._tails if now < tail.due]
        return [item for tail in due for item in self._remember(tail)]

    def _remember(self, tail: _Tail) -> list[Item]:
        """Remember the records of a tail that is shown, except for those that stand for several; return all of them."""
        for item in tail.items.values():
            rank = _rank(item)
            if rank is not None:
                self._shown.setdefault(rank, Counter())[_key(item)] += 1
        excess = sum(map(len, self._shown.values())) - MAX_SHOWN
        while excess > 0:
            rank, oldest = next(iter(self._shown.items()))
            first = tuple(itertools.islice(oldest, excess))
            excess -= len(first)
            for key in first:
                del oldest[key]
            if not oldest:
                del self._shown[rank]
        return list(tail.items.values())

    @property
    def shown(self) -> bool:
        """Whether records are remembered."""
        return bool(self._shown)

    def without_shown(self, items: list[Item]) -> list[Item]:
        """Return the items without the records that were shown before their relay was replaced."""
        return [item for item in items if not self._was_shown(item)]

    def _was_shown(self, item: Item) -> bool:
        rank = _rank(item)
        shown = None if rank is None else self._shown.get(rank)
        if shown is None or rank is None:
            return False
        key = _key(item)
        if not shown[key]:
            return False
        shown[key] -= 1
        if not shown[key]:
            del shown[key]
        if not shown:
            del self._shown[rank]
        return True


def _rank(item: Item) -> int | None:
    """Return the rank of a record that stands only for itself, or None."""
    template = item[1]
    return template.rank if isinstance(template, RelayedTemplate) and not template.digest else None


def _key(item: Item) -> int:
    """Return a number that two records of a rank share only if they are the same, as far as can be told."""
    _, template, values = item
    base = template.base
    return hash(
        (
            values[1],
            base["thread"],
            base["pathname"],
            base["lineno"],
            base["msg"],
            repr((values[3], values[4].get("msg"), values[5])),
        )
    )


def _ranks(item: Item) -> set[int]:
    _, template, values = item
    if not isinstance(template, RelayedTemplate):
        return set()
    ours = values[6]
    found = set(ours.get("ranks") or ())
    if template.rank is not None:
        found.add(template.rank)
    return found


def _is_captured(item: Item) -> bool:
    return item[1] is not None and item[1].info.stream is not None
