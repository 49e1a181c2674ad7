"""Format ranks as text with ranges, parse such a text, and check ranks from peers."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ProtocolError, SettingError

_MAX_RANK = 10_000_000
_BELOW_ALL_HASHES = 1 << 60
_MAX_PART = 40  # characters


def is_rank(value: object) -> bool:
    """Return whether a value from a peer may be a rank. No two of them have the same hash: see `codec.MAX_COLLIDING`."""
    return isinstance(value, int) and 0 <= value < _BELOW_ALL_HASHES


def check_ranks(ranks: tuple[object, ...] | None, most: int) -> None:
    """Raise `ProtocolError` unless these values from a peer are at most `most` ranks, or None."""
    if ranks is not None and (len(ranks) > most or not all(map(is_rank, ranks))):
        raise ProtocolError(f"invalid ranks: expected at most {most} whole numbers")


def rank_ranges(ranks: Iterable[int]) -> str:
    """Return ranks as ranges: ``(0, 1, 2, 5)`` becomes ``0-2,5``."""
    parts: list[str] = []
    first = last = None
    for rank in sorted(set(ranks)):
        if last is not None and rank == last + 1:
            last = rank
            continue
        if first is not None:
            parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = rank
    if first is not None:
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)


def format_ranks(ranks: Iterable[int]) -> str:
    """Return ranks for a sentence: ``rank 3`` or ``ranks 0-2,5``."""
    known = sorted(set(ranks))
    return f"rank {known[0]}" if len(known) == 1 else f"ranks {rank_ranges(known)}"


def parse_ranks(text: str) -> frozenset[int]:
    """Return the ranks in a text like ``0,4-7``; raise `SettingError` for a part that is not a number or ascending range."""
    ranks: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > _MAX_PART:
            raise SettingError(f"{text!r} does not name ranks: {part!r} is neither a number nor a range. Write 0,2-3.")
        low, high = int(first), int(last or first)
        if low > high or high > _MAX_RANK:
            raise SettingError(
                f"{text!r} does not name ranks: {part!r} is descending or too large. Write the lower first, as in 2-3."
            )
        ranks.update(range(low, high + 1))
    return frozenset(ranks)
