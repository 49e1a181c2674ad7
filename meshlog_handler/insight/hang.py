"""Finds jobs that hang, by the times at which ranks last did something, and describes where the ranks wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import printable
from ..protocol.ranks import format_ranks
from .call_tree import place_of
from .stacks import MAIN_THREAD, Stacks

_SHOWN: Final = 5
_PLACES: Final = 4
_WIDTH: Final = 100
_MAX_PLACE: Final = 400


@dataclass(frozen=True)
class Hang:
    """A hang that was found.

    Attributes
    ----------
    ranks : tuple of int
        The ranks that wait, the longest silent one first. Those that are not reachable are not among them.
    seconds : float
        The time without progress after which a job counts as hung.
    text : str
        The report. Its first line says where the ranks are, those that differ from most ranks first. Then follow the last line
        of each, and the merged stacks.
    unreachable : tuple of int
        The ranks whose relay does not answer, because its network is down or its host is gone: it is not known what they do.
    """

    ranks: tuple[int, ...]
    seconds: float
    text: str
    unreachable: tuple[int, ...] = ()


class HangDetector:
    """Finds each hang once. Time is an argument, in seconds.

    The job hangs if no rank has done anything for `after` seconds. After any rank has done something again, the next hang is
    found, too. A rank that is silent while others work is no hang: there are ranks that log only once in an hour. A hang that
    is not `certain`, because there are ranks of which nothing is known, is found once more when it is.
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._found = 0  # 1: not for certain, 2: for certain

    def look(self, now: float, active: Mapping[int, float], *, certain: bool = True) -> tuple[int, ...]:
        """Return the ranks if they hang, the longest silent one first; empty if they do not, or if that was found before.

        `active` has, for each rank that runs and is known, the time at which it last did something.
        """
        hangs = bool(active) and now - max(active.values()) >= self._after
        before, self._found = self._found, max(self._found, 1 + certain) if hangs else 0
        if self._found <= before:
            return ()
        return tuple(sorted(active, key=lambda rank: (active[rank], rank)))


def describe_hang(
    ranks: Sequence[int],
    silent: Mapping[int, float],
    last_lines: Mapping[int, str],
    after: float,
    stacks: Stacks | None,
    unreachable: Sequence[int] = (),
) -> str:
    """Return where the ranks wait, since when, and the last line of each. `stacks` are None if they are not known."""
    places = [*_places(ranks, stacks), *([f"{format_ranks(unreachable)} not reachable"] if unreachable else [])]
    lines = [f"no progress for {after:g} s: {'; '.join(places)}"]
    for rank in ranks[:_SHOWN]:
        last = last_lines.get(rank, "")
        shown = f"last line: {printable(last[:_WIDTH], _WIDTH)}" if last else "nothing was logged or printed"
        lines.append(f"    rank {rank}: silent for {silent[rank]:.0f} s; {shown}")
    if len(ranks) > _SHOWN:
        lines.append(f"    and {len(ranks) - _SHOWN} more")
    return "\n".join(lines)


def _places(ranks: Sequence[int], stacks: Stacks | None) -> list[str]:
    """Return where the main threads of the ranks are, with their ranks; the places of few ranks come first."""
    of_ranks = dict.fromkeys(ranks, "")
    if stacks is not None:
        states = {rank: " in ".join(filter(None, each[1:3])) for rank, each in stacks.unanswered.items()}
        # A rank with several processes is in several groups. That of the fewest ranks is the last one.
        groups = [(place_of(group.frames), group) for group in stacks.groups if MAIN_THREAD in group.threads]
        found = {**states, **{rank: f"in {place}" for place, group in groups if place for rank in group.ranks}}
        of_ranks = {rank: found.get(rank, "") for rank in ranks}
    by_place: dict[str, list[int]] = {}
    for rank, place in of_ranks.items():
        by_place.setdefault(place, []).append(rank)
    places = sorted(by_place.items(), key=lambda each: len(each[1]))  # of equal ones, that of the longest silent rank is first
    few, others = places[: _PLACES - 1], places[_PLACES - 1 :]
    texts = [f"{format_ranks(there)} {place}".rstrip() for place, there in [*few, *others[-1:]]]
    if len(others) > 1:
        texts.insert(-1, f"{sum(len(there) for _, there in others[:-1])} ranks elsewhere")
    return [printable(text, _MAX_PLACE) for text in texts]
