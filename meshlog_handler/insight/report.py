"""Insight: the answer to "which rank is stuck, behind, different, first to fail", from observations. Pure."""

from __future__ import annotations

import logging
import math
import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median, median_high
from typing import Any, Final

from ..errors import printable
from ..protocol.ranks import format_ranks
from .html import insight_html
from .observation import Observation, by_rank
from .parts import Difference, FailureGroup, Milestone, Progress, RankInsight
from .series import Sample, Series, label_of

Key = tuple[int, str]

LIVE: Final = ("running", "silent", "stopped")
"""The states of ranks whose process has not ended."""

_SILENT_SEC: Final = 1.0
_SILENT_TIMES: Final = 2.0
_ACTIVE_TIMES: Final = 3.0
_SLOW: Final = 0.8
_INTERVALS: Final = 2
_LATE_SEC: Final = 0.5
_RARE: Final = 20
_FEW: Final = 4
_MAX_DIFFERENT: Final = 100
_SHOWN: Final = 5
_WIDTH: Final = 100


@dataclass(frozen=True)
class Insight:
    """Which rank is stuck, behind, different, or the first to fail, from what the ranks have logged and printed so far.

    Attributes
    ----------
    ranks : dict[int, RankInsight]
        By rank.
    silent : tuple of (int, float, str)
        ``(rank, seconds, last line)`` of live ranks that have said nothing for much longer than they and the others usually do,
        while others still do. The longest silence is first. Ranks that are ahead of a slow one are not among them: they wait.
    progress : tuple of Progress
        One for each template, or kind of line, whose number grows.
    missing : tuple of Milestone
        Lines that most ranks have logged and some have not.
    different : tuple of Difference
        Lines that only one or few ranks have logged; WARNING and above first.
    failures : tuple of FailureGroup
        Exceptions by signature, the first in time first.
    """

    ranks: dict[int, RankInsight]
    silent: tuple[tuple[int, float, str], ...]
    progress: tuple[Progress, ...]
    missing: tuple[Milestone, ...]
    different: tuple[Difference, ...]
    failures: tuple[FailureGroup, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data for ``json.dumps``."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return insight_html(self)

    def _lines(self) -> Iterator[str]:
        """Yield the lines of the text: the trouble first."""
        states = {state: [rank for rank, each in self.ranks.items() if each.state == state] for state in _SHOWN_STATES}
        parts = [f"{len(ranks)} {state}" for state, ranks in states.items() if ranks and state in ("running", "ended")]
        parts += [f"{format_ranks(states[state])} {state}" for state in _TROUBLES if states[state]]
        yield f"{len(self.ranks)} rank{'s' * (len(self.ranks) != 1)}: {', '.join(parts) or 'nothing was received yet'}"
        yield from _some("failed", [_of_failure(each) for each in self.failures])
        yield from _some("silent", [f"rank {rank} for {seconds:.1f} s: {_cut(line)}" for rank, seconds, line in self.silent])
        yield from _some("behind", [_of_behind(each) for each in self.progress if each.behind])
        yield from _some("missing", [_of_milestone(each) for each in self.missing])
        yield from _some(
            "only",
            [f"{format_ranks(each.ranks)}: {logging.getLevelName(each.level)} {_cut(each.text)}" for each in self.different],
        )
        yield from _some("progress", [_of_progress(each) for each in self.progress])
        quiet = min((each.last_seen for each in self.ranks.values() if each.state in LIVE), default=0.0)
        if quiet > _SILENT_SEC:
            yield f"quiet     no rank has logged or printed anything for {quiet:.1f} s"


_TROUBLES: Final = ("silent", "stopped", "unreachable", "dead")
_SHOWN_STATES: Final = ("running", "ended", *_TROUBLES)


def _some(title: str, texts: list[str]) -> Iterator[str]:
    for at, text in enumerate(texts[:_SHOWN]):
        yield f"{'' if at else title:<9} {text}"
    if len(texts) > _SHOWN:
        yield f"{'':<9} and {len(texts) - _SHOWN} more"


def _cut(text: str) -> str:
    line = text.partition("\n")[0]
    return printable(line, _WIDTH) if len(line) <= _WIDTH else f"{printable(line[: _WIDTH - 3], _WIDTH)}..."


def _of_failure(each: FailureGroup) -> str:
    when = f" at {datetime.fromtimestamp(each.first_time):%H:%M:%S}" if each.first_time else ""
    others = f", in all {format_ranks(each.ranks)}" if len(each.ranks) > 1 else ""
    return f"rank {each.first_rank}{when}{others}: {_cut(each.text)}"


def _of_behind(each: Progress) -> str:
    values = ", ".join(f"rank {rank} at {each.values[rank]:g}" for rank in each.slowest[:_SHOWN])
    more = f" and {len(each.behind) - _SHOWN} more" if len(each.behind) > _SHOWN else ""
    return f"{each.label}: {values}{more}; median {each.median:g}"


def _of_progress(each: Progress) -> str:
    values = f"{each.minimum:g}" if each.minimum == each.maximum else f"{each.minimum:g}..{each.maximum:g}"
    return f"{each.label} {values}, median {each.median:g}, {each.rate:.3g}/s"


def _of_milestone(each: Milestone) -> str:
    count = len(each.reached) + len(each.missing)
    return f"{_cut(each.text)}: {len(each.reached)} of {count}, missing {format_ranks(each.missing).partition(' ')[2]}"


# -- from observations ---------------------------------------------------------------------------------------------------


def insight_of(observations: Iterable[Observation], wanted: Iterable[int] | None = None) -> Insight:
    """Return the insight into the `wanted` ranks (None: all). The order of the observations does not matter."""
    chosen = None if wanted is None else frozenset(wanted)
    ranks = by_rank(each for each in observations if chosen is None or each.rank in chosen)
    silent = _silent(ranks)
    quiet = {rank for rank, _, _ in silent}
    kinds: dict[Key, dict[int, Series]] = {}
    for rank, each in ranks.items():
        for key, series in each.series.items():
            kinds.setdefault(key, {})[rank] = series
    ordered = dict(sorted(kinds.items()))
    places = {key: place for key, of_ranks in ordered.items() if (place := _growing(of_ranks)) is not None}
    # Ranks that stand still do not say how fast the others should be.
    paced = {rank for rank, each in ranks.items() if rank not in quiet and each.state in ("running", "ended")}
    progress = _all_progress(ordered, places, ranks, paced)
    waiting = _waiting(progress, paced)
    quiet -= waiting
    silent = tuple(each for each in silent if each[0] not in waiting)
    return Insight(
        {
            rank: RankInsight(
                "silent" if rank in quiet and each.state == "running" else each.state,
                each.silence,
                each.last_line,
                each.records,
                each.lines,
                each.rate,
                each.warnings,
                each.errors,
                each.dropped,
                {growth.label: growth.values[rank] for growth in progress if rank in growth.values},
            )
            for rank, each in ranks.items()
        },
        silent,
        progress,
        _missing(ordered, places, ranks),
        _different(ordered, ranks),
        _failures(ranks),
    )


def _silent(ranks: Mapping[int, Observation]) -> tuple[tuple[int, float, str], ...]:
    """Return the silent ranks. If no rank logs or prints anything, as between two phases of a job, none of them is."""
    live = {rank: each for rank, each in ranks.items() if each.state in LIVE}
    if len(live) < 2:
        return ()
    usual = median(each.longest for each in live.values())
    silences = sorted(each.silence for each in live.values())
    active = silences[(len(silences) - 1) // 4]
    found = [
        (rank, each.silence, each.last_line)
        for rank, each in live.items()
        if each.silence > max(_SILENT_SEC, _SILENT_TIMES * max(each.longest, usual), _ACTIVE_TIMES * active)
    ]
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))


def _waiting(progress: Iterable[Progress], paced: Set[int]) -> set[int]:
    """Return the ranks that probably wait for a slow one: they are ahead of it, and not behind the others."""
    found = set()
    for growth in progress:
        slowest = min((growth.values[rank] for rank in growth.behind if rank in paced), default=math.inf)
        found |= {rank for rank, value in growth.values.items() if value > slowest and rank not in growth.behind}
    return found


def _growing(series: Mapping[int, Series]) -> int | None:
    """Return the place of the number that grows in all ranks that have logged it more than once, or None.

    Whole numbers come first: a step, rather than the seconds that it took.
    """
    several = [each for each in series.values() if len(each.samples) > 1]
    if not several:
        return None
    count = min(len(each.newest.numbers) for each in several)
    found = [place for place in range(count) if all(_grows(each, place) for each in several)]
    whole = [place for place in found if all(_at(each.newest, place).is_integer() for each in several)]
    return next(iter(whole or found), None)


def _grows(series: Series, place: int) -> bool:
    numbers = [sample.numbers[place] if place < len(sample.numbers) else None for sample in series.samples]
    known = [number for number in numbers if number is not None]
    return len(known) == len(numbers) and known == sorted(known) and known[0] < known[-1]


def _at(sample: Sample, place: int) -> float:
    number = sample.numbers[place] if place < len(sample.numbers) else None
    return float("nan") if number is None else number


def _values(series: Mapping[int, Series], place: int) -> dict[int, float]:
    """Return the latest number of each rank."""
    found = {rank: _at(each.newest, place) for rank, each in series.items()}
    return {rank: value for rank, value in found.items() if value == value}


def _all_progress(
    kinds: Mapping[Key, Mapping[int, Series]],
    places: Mapping[Key, int],
    ranks: Mapping[int, Observation],
    paced: Set[int],
) -> tuple[Progress, ...]:
    labels = {key: label_of(key[1], place) for key, place in places.items()}
    shared = Counter(labels.values())
    found = []
    for key, place in places.items():
        label = labels[key] if shared[labels[key]] == 1 else key[1]
        found.append(_progress(label, kinds[key], place, ranks, paced))
        finer = _within(kinds[key], place)
        if finer is not None:
            within, at, series = finer
            found.append(_progress(f"{label} {at:g} {label_of(key[1], within)}", series, within, ranks, paced))
    return tuple(sorted(found, key=lambda each: (-len(each.behind), -len(each.values), each.label)))


def _within(series: Mapping[int, Series], place: int) -> tuple[int, float, dict[int, Series]] | None:
    """Return the place of a whole number that grows while the one at `place` stays, as a step in an epoch; or None.

    Also returns the epoch that most ranks are in, and the samples of it. That there is such a number shows only if there are
    several samples of one epoch.
    """
    values = _values(series, place)
    most, _ = max(Counter(values.values()).items(), key=lambda each: (each[1], each[0]))
    pairs = [pair for each in series.values() for pair in pairwise(each.samples) if _at(pair[0], place) == _at(pair[1], place)]
    chosen = {rank: _only(series[rank], place, most) for rank, value in values.items() if value == most}
    if not pairs or all(len(each.samples) < 2 for each in chosen.values()):
        return None
    for within in range(min(len(each.newest.numbers) for each in series.values())):
        numbers = [(_at(before, within), _at(after, within)) for before, after in pairs]
        if within != place and all(after > before and before.is_integer() and after.is_integer() for before, after in numbers):
            return within, most, chosen
    return None


def _only(series: Series, place: int, value: float) -> Series:
    """Return the samples with this value at `place`, and about how many records have it."""
    samples = tuple(sample for sample in series.samples if _at(sample, place) == value)
    seconds = series.newest.time - series.samples[0].time
    share = (samples[-1].time - samples[0].time) / seconds if seconds > 0 else 0.0
    return Series(max(len(samples), 1 + round(share * (series.total - 1))), samples)


def _progress(
    label: str, series: Mapping[int, Series], place: int, ranks: Mapping[int, Observation], paced: Set[int]
) -> Progress:
    values = _values(series, place)
    compared = (values.keys() & paced) or values.keys()
    # Most ranks may stand still because they have got stuck, or because they wait for a slow one.
    middle = max(median(values[rank] for rank in compared), median(values.values()))
    rates = {rank: _rate(series[rank], place, ranks[rank]) for rank in values}
    known = [rate for rank in compared if (rate := rates[rank]) is not None]
    rate = float(median(known)) if known else 0.0
    steps = [step for rank in values if (step := _interval(series[rank], place))]
    # A rank whose latest number was sent moments before those of the others is not behind.
    margin = max(_INTERVALS * median(steps) if steps else 0.0, rate * _LATE_SEC)
    behind = []
    for rank, value in values.items():
        own = rates[rank]
        slow = own is not None and own < _SLOW * rate and series[rank].total > _INTERVALS and ranks[rank].state != "ended"
        if value < middle and (slow or value < middle - margin):
            behind.append(rank)
    least, most = min(values.values()), max(values.values())
    return Progress(label, values, least, float(median(values.values())), most, rate, tuple(behind))


def _interval(series: Series, place: int) -> float | None:
    """Return by how much the number grows from one time to the next."""
    if series.total < 2:
        return None
    return (_at(series.newest, place) - _at(series.samples[0], place)) / (series.total - 1)


def _rate(series: Series, place: int, rank: Observation) -> float | None:
    """Return the growth per second, since some seconds ago. A rank that is late with its next number becomes slower."""
    samples = series.samples
    if len(samples) < 2:
        return None
    since = samples[max(0, len(samples) - 3)]
    growth = _at(series.newest, place) - _at(since, place)
    usual = (series.newest.time - samples[0].time) / max(1, series.total - 1)
    seconds = series.newest.time - since.time
    if rank.state != "ended":
        seconds = max(seconds, _now_of(rank) - usual - since.time)
    return growth / seconds if seconds > 0 else None


def _now_of(rank: Observation) -> float:
    """Return the present time by the clock of the rank, from its latest sample."""
    return max((each.newest.time for each in rank.series.values()), default=0.0) + rank.silence


def _missing(
    kinds: Mapping[Key, Mapping[int, Series]], places: Mapping[Key, int], ranks: Mapping[int, Observation]
) -> tuple[Milestone, ...]:
    found = []
    most = len(ranks) // 2 + 1
    for key, series in kinds.items():
        if len(series) < most or median_high(each.total for each in series.values()) > _RARE:
            continue
        place = places.get(key)
        values = {} if place is None else _values(series, place)
        reached = set(series)
        text = series[min(series)].newest.text
        if len(values) >= most:
            # The furthest point that most ranks have reached.
            point = sorted(values.values(), reverse=True)[most - 1]
            reached = {rank for rank, value in values.items() if value >= point}
            text = next(series[rank].newest.text for rank in sorted(values) if values[rank] == point)
        elif len({each.newest.text for each in series.values()}) > 1:
            common, _ = Counter(each.newest.text for each in series.values()).most_common(1)[0]
            text = common
        # Of a rank of which only a part was examined, it is not known what is missing.
        missing = {rank for rank, each in ranks.items() if rank not in reached and not (each.sampled and rank not in series)}
        if missing:
            when = max(series[rank].newest.time for rank in reached)
            found.append((when, Milestone(text, tuple(sorted(reached)), tuple(sorted(missing)))))
    return tuple(each for _, each in sorted(found, key=lambda pair: (-pair[0], pair[1].text)))


def _different(kinds: Mapping[Key, Mapping[int, Series]], ranks: Mapping[int, Observation]) -> tuple[Difference, ...]:
    few = max(1, len(ranks) // _FEW)
    found = []
    for (level, _), series in kinds.items():
        if len(ranks) < 2 or len(series) > few:
            continue
        serious = level >= logging.WARNING
        if not serious and any(each.sampled for rank, each in ranks.items() if rank not in series):
            continue  # others may have logged it, too
        newest = max((each.newest for each in series.values()), key=lambda sample: (sample.time, sample.text))
        alone = Difference(newest.text, level, tuple(sorted(series)))
        # In many programs, rank 0 logs for all.
        found.append(((not serious, alone.ranks == (0,), -level, len(series), newest.time, newest.text), alone))
    return tuple(each for _, each in sorted(found, key=lambda pair: pair[0]))[:_MAX_DIFFERENT]


def _failures(ranks: Mapping[int, Observation]) -> tuple[FailureGroup, ...]:
    by_place: dict[tuple[str, str, int], list[tuple[float, int, str]]] = {}
    latest = max((_now_of(each) for each in ranks.values() if each.series), default=None)
    for rank, each in ranks.items():
        for place, (when, text) in each.failures.items():
            by_place.setdefault(place, []).append((when, rank, text))
        end = each.end or "ended"
        explained = each.failures and ("exit code" in end or "uncaught" in end)
        if each.state == "dead" and not explained:
            now = _now_of(each) if each.series else latest  # of a rank behind a relay that is gone, there are no samples
            since = 0.0 if now is None else now - each.silence
            by_place.setdefault((end.partition(") ")[2] or end, "", 0), []).append((since, rank, end))
    found = []
    for (kind, file, line), failed in by_place.items():
        when, rank, text = min(failed)
        where = f" at {os.path.basename(file)}:{line}" if file else ""
        found.append(FailureGroup(kind + where, text, tuple(sorted({each[1] for each in failed})), rank, when))
    return tuple(sorted(found, key=lambda each: (each.first_time, each.first_rank, each.signature)))
