"""Records of killed relays that their workers may send again. Pure."""

from __future__ import annotations

from typing import Final

from ...protocol.decode import Item
from ...protocol.relayed_records import RelayedTemplate

MAX_UNCONFIRMED: Final = 256 << 20
"""Bytes of records that are kept, as they were received. Beyond this, the oldest are due at once."""


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
    """What killed relays had passed on after their last boundaries: shown only if their workers do not send it again."""

    def __init__(self) -> None:
        self._tails: list[_Tail] = []  # oldest first

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
            due_now += self._tails.pop(0).items.values()
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
        items = [item for tail in self._tails if now >= tail.due for item in tail.items.values()]
        self._tails = [tail for tail in self._tails if now < tail.due]
        return items


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
