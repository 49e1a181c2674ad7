"""Hangs: a job whose ranks all wait, told from the times at which they last did something. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import printable
from ..protocol.ranks import format_ranks

_WAITING: Final = 0.5
_SHOWN: Final = 5
_WIDTH: Final = 100


@dataclass(frozen=True)
class Hang:
    """A hang that was found.

    Attributes
    ----------
    ranks : tuple of int
        The ranks that wait, the longest silent one first.
    seconds : float
        The time without progress after which a job counts as hung.
    text : str
        The report: who, since when, the last line of each, and the merged stacks.
    """

    ranks: tuple[int, ...]
    seconds: float
    text: str


class HangDetector:
    """Finds each hang once. Time is an argument, in seconds.

    The job hangs if a rank has done nothing for `after` seconds, and no other rank has done anything for half of that time: the
    others wait. After any rank has done something again, the next hang is found, too.
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._found = False

    def look(self, now: float, active: Mapping[int, float]) -> tuple[int, ...]:
        """Return the ranks if they hang, the longest silent one first; empty if they do not, or if that was found before.

        `active` has, for each rank that runs, the time at which it last did something.
        """
        silent = {rank: now - when for rank, when in active.items()}
        if not silent or min(silent.values()) < self._after * _WAITING:
            self._found = False
            return ()
        if self._found or max(silent.values()) < self._after:
            return ()
        self._found = True
        return tuple(sorted(silent, key=lambda rank: (-silent[rank], rank)))


def describe_hang(ranks: Sequence[int], silent: Mapping[int, float], last_lines: Mapping[int, str], after: float) -> str:
    """Return which ranks wait, since when, and the last line of each."""
    lines = [f"no progress for {after:g} s: {format_ranks(ranks)}"]
    for rank in ranks[:_SHOWN]:
        last = last_lines.get(rank, "")
        shown = f"last line: {printable(last[:_WIDTH], _WIDTH)}" if last else "nothing was logged or printed"
        lines.append(f"    rank {rank}: silent for {silent[rank]:.0f} s; {shown}")
    if len(ranks) > _SHOWN:
        lines.append(f"    and {len(ranks) - _SHOWN} more")
    return "\n".join(lines)
