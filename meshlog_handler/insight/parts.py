"""The parts of an `Insight`: what is known about a rank, progress, milestones, differences and failures. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

TROUBLES: Final = ("dead", "unreachable", "stopped", "errors", "silent", "behind", "")  # the worst first
"""What `trouble_of` returns, the worst first."""

_ENDED: Final = re.compile(r"rank (\d{1,18}) \((pid \d+)\)(?= )")


@dataclass(frozen=True)
class RankInsight:
    """What is known about one rank.

    Attributes
    ----------
    state : {"running", "silent", "ended", "dead", "stopped", "unreachable"}
        "silent": see `Insight.silent`. "ended": its process ended normally. "dead": it crashed, or was killed. "stopped": the
        process is suspended (SIGSTOP, a debugger). "unreachable": its relay does not answer, so only its counters are known.
    last_seen : float
        Seconds since it last logged or printed something.
    last_line : str
        The text of its last record or line.
    records, lines : int
        Records, and captured lines.
    rate : float
        Records and lines per second, lately.
    warnings, errors : int
        Records and lines of level WARNING; of level ERROR and above. A captured traceback counts as one.
    dropped : int
        Dropped records.
    progress : dict[str, float]
        The latest number for each label of `Insight.progress`.
    """

    state: str
    last_seen: float
    last_line: str
    records: int
    lines: int
    rate: float
    warnings: int
    errors: int
    dropped: int
    progress: dict[str, float]


def trouble_of(each: RankInsight, behind: bool) -> str:
    """Return the worst trouble of a rank, or ""."""
    if each.state in ("dead", "unreachable", "stopped"):
        return each.state
    if each.errors:
        return "errors"
    if each.state == "silent":
        return "silent"
    return "behind" if behind and each.state == "running" else ""


@dataclass(frozen=True)
class Progress:
    """A number that grows, such as a step, an epoch or a progress bar: the latest value of each rank.

    Of steps that begin again in each epoch, the ranks in the epoch of most ranks are compared; the label is "epoch 2 step".

    Attributes
    ----------
    label : str
        The word beside the number, or the description of the bar.
    values : dict[int, float]
        By rank.
    minimum, median, maximum : float
        Of these values.
    rate : float
        The median of the growth per second of the ranks that make progress.
    behind : tuple of int
        Ranks below the median of the ranks that make progress, if their rate is less than 0.8 of `rate`, if they are more
        than 2 intervals behind that median, or if ranks that are ahead wait for them.
    """

    label: str
    values: dict[int, float]
    minimum: float
    median: float
    maximum: float
    rate: float
    behind: tuple[int, ...]

    @property
    def slowest(self) -> list[int]:
        """The ranks that are behind, those with the smallest number first."""
        return sorted(self.behind, key=lambda rank: (self.values[rank], rank))


@dataclass(frozen=True)
class Milestone:
    """A line that most ranks have logged (`reached`), and some have not although they are late by their pace (`missing`)."""

    text: str
    reached: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A line that only one or few ranks have logged. `level` is a number, as in `logging`."""

    text: str
    level: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class FailureGroup:
    """Exceptions with one signature: the same type, raised at the same place.

    `first_time` is in seconds since the epoch, by the clock of `first_rank`. If a rank is dead and no exception explains it,
    the signature is how it ended; the time is that of its last sign of life, or 0 if nothing tells it.
    """

    signature: str
    text: str
    ranks: tuple[int, ...]
    first_rank: int
    first_time: float


def text_beside_rank(failure: FailureGroup) -> str:
    """Return the text of a failure for a place that names its rank: how a process ended begins with the same."""
    found = _ENDED.match(failure.text)
    if found is None or len(failure.ranks) > 1 or int(found[1]) != failure.first_rank:
        return failure.text
    return f"{found[2]}{failure.text[found.end() :]}"
