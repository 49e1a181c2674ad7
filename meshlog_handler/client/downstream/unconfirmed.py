"""Records of killed relays that their workers may send again. Pure."""

from __future__ import annotations

from ...protocol.decode import Item
from ...protocol.relayed_records import RelayedTemplate


class Unconfirmed:
    """What killed relays had passed on after their last boundaries: shown only if their workers do not send it again."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, list[Item]]] = []

    def add(self, items: list[Item], resuming: frozenset[int], due: float) -> list[Item]:
        """Keep the records of ranks that may resume, until `due`; return the others, which nobody sends again."""
        kept = [item for item in items if _ranks(item) & resuming and not _is_captured(item)]
        if kept:
            self._parts.append((due, kept))
        chosen = set(map(id, kept))
        return [item for item in items if id(item) not in chosen]

    def resumed(self, rank: int) -> None:
        """Drop the records of a rank that sends them again."""
        self._parts = [(due, [item for item in items if rank not in _ranks(item)]) for due, items in self._parts]

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to return, or None."""
        return min((due for due, _ in self._parts), default=None)

    def expire(self, now: float) -> list[Item]:
        """Return the records of ranks that have not resumed in time."""
        items = [item for due, kept in self._parts if now >= due for item in kept]
        self._parts = [(due, kept) for due, kept in self._parts if now < due]
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
