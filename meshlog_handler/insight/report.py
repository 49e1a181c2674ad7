"""Insight: the answer to "which rank is stuck, behind, different, first to fail", from observations. Pure."""

from __future__ import annotations

import logging
import math
import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from statistics import median, median_high
from typing import Any, Final, NamedTuple

from ..errors import printable
from ..protocol.ranks import format_ranks
from .html import insight_html
from .observation import Observation, by_rank
from .parts import Difference, FailureGroup, Milestone, Progress, RankInsight, text_beside_rank
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
_LATE_TIMES: Final = 2.0
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
        while others still do. The longest silence is first. Ranks that are ahead of the others are not among them: they wait.
    progress : tuple of Progress
        One for each template, or kind of line, whose number grows.
    missing : tuple of Milestone
        Lines that most ranks have logged and some have not, although they are late by their usual pace.
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
    return f"rank {each.first_rank}{when}{others}: {_cut(text_beside_rank(each))}"


def _of_behind(each: Progress) -> str:
    values = ", ".join(f"rank {rank} at {each.values[rank]:g}" for rank in each.slowest[:_SHOWN])
    more = f" and {len(each.behind) - _SHOWN} more" if len(each.behind) > _SHOWN else ""
    return f"{_cut(each.label)}: {values}{more}; median {each.median:g}"


def _of_progress(each: Progress) -> str:
    values = f"{each.minimum:g}" if each.minimum == each.maximum else f"{each.minimum:g}..{each.maximum:g}"
    return f"{_cut(each.label)} {values}, median {each.median:g}, {each.rate:.3g}/s"


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
    growths = _all_progress(ordered, places, ranks, paced)
    waiting, told = _waiting(growths, quiet, paced, ranks)
    quiet -= waiting
    progress = tuple(sorted(told, key=lambda each: (-len(each.behind), -len(each.values), each.label)))
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
        _missing(ordered, places, ranks, quiet),
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


class _Growth(NamedTuple):
    """A number that grows, with the samples that it was found in, and its place in them; None if it begins again in epochs."""

    told: Progress
    series: Mapping[int, Series]
    place: int | None


def _waiting(
    growths: Sequence[_Growth], quiet: Set[int], paced: Set[int], ranks: Mapping[int, Observation]
) -> tuple[set[int], list[Progress]]:
    """Return the ranks that probably wait for others, and the progress with the ranks for which they wait as those behind.

    Where ranks meet, those that are ahead wait, and the one that is behind is late.
    """
    found = set()
    for each in growths:
        values, slow = each.told.values, each.told.behind
        slowest = min((values[rank] for rank in slow if rank in paced), default=math.inf)
        found |= {rank for rank, value in values.items() if value > slowest >= _first(rank, each) and rank not in slow}
    behind = {rank for each in growths for rank in each.told.behind}
    live = [[value for rank, value in each.told.values.items() if ranks[rank].state in LIVE] for each in growths]
    bounds = [(min(values, default=0.0), max(values, default=0.0)) for values in live]
    awaited: set[int] = set()
    for rank in sorted(rank for rank in quiet - behind if ranks[rank].state != "stopped"):
        newest = max((each.series[rank].newest.time for each in growths if rank in each.told.values), default=0.0)
        last = [at for at, each in enumerate(growths) if rank in each.told.values and each.series[rank].newest.time == newest]
        own = {at: growths[at].told.values[rank] for at in last}
        led = {at for at in last if own[at] > bounds[at][0] >= _first(rank, growths[at])}
        if led and all(own[at] == bounds[at][1] for at in last):
            found.add(rank)
            awaited |= led
    found -= {rank for rank in found if ranks[rank].state == "stopped"}
    return found, [_with_awaited(each.told, ranks) if at in awaited else each.told for at, each in enumerate(growths)]


def _first(rank: int, growth: _Growth) -> float:
    """Return the number with which a rank began: if each has a range for itself, the one with the highest is not ahead."""
    samples = growth.series[rank].samples
    return -math.inf if growth.place is None or len(samples) < 2 else _at(samples[0], growth.place)


def _with_awaited(growth: Progress, ranks: Mapping[int, Observation]) -> Progress:
    """Add the ranks for which others wait: they are late by more than the usual lag."""
    middle = median(growth.values.values())
    late = {rank for rank, value in growth.values.items() if value < middle and ranks[rank].state in LIVE}
    return replace(growth, behind=tuple(sorted(late.union(growth.behind))))


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
) -> list[_Growth]:
    labels = {key: label_of(key[1], place) for key, place in places.items()}
    shared = Counter(labels.values())
    found = []
    for key, place in places.items():
        label = labels[key] if shared[labels[key]] == 1 else key[1]
        found.append(_Growth(_progress(label, kinds[key], place, ranks, paced), kinds[key], place))
        finer = _within(kinds[key], place)
        if finer is not None:
            within, at, series = finer
            inner = _progress(f"{label} {at:g} {label_of(key[1], within)}", series, within, ranks, paced)
            found.append(_Growth(inner, series, None))
    return found


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
    kinds: Mapping[Key, Mapping[int, Series]],
    places: Mapping[Key, int],
    ranks: Mapping[int, Observation],
    quiet: Set[int],
) -> tuple[Milestone, ...]:
    found = []
    most = len(ranks) // 2 + 1
    # Ranks that have ended, or that have got stuck, do not reach anything soon; of the others, those that are late are told.
    over = quiet | {rank for rank, each in ranks.items() if each.state != "running"}
    longest = median([each.longest for each in ranks.values()] or [0.0])
    steps = [(kinds[key], place) for key, place in places.items()]
    for key, series in kinds.items():
        if len(series) < most or median_high(each.total for each in series.values()) > _RARE:
            continue
        place = places.get(key)
        values = {} if place is None else _values(series, place)
        reached = set(series)
        text = series[min(series)].newest.text
        point, spread, usual = 0.0, 0.0, _usual_pause(series)
        if len(values) >= most:
            # The furthest point that most ranks have reached.
            point = sorted(values.values(), reverse=True)[most - 1]
            reached = {rank for rank, value in values.items() if value >= point}
            text = next(series[rank].newest.text for rank in sorted(values) if values[rank] == point)
            spread = max(values.values()) - point
        elif len({each.newest.text for each in series.values()}) > 1:
            common, _ = Counter(each.newest.text for each in series.values()).most_common(1)[0]
            text = common
        # Of a rank of which only a part was examined, it is not known what is missing.
        absent = {rank for rank, each in ranks.items() if rank not in reached and not (each.sampled and rank not in series)}
        if not absent:
            continue
        passed = _Passed({each: series[each] for each in sorted(reached)}, most, steps=steps, ranks=ranks, longest=longest)
        missing = {
            rank
            for rank in absent
            if rank in over
            or (
                point - values[rank] > spread and _is_late(ranks[rank], series[rank], usual)
                if rank in values
                else passed.by(rank)
            )
        }
        if missing:
            when = max(series[rank].newest.time for rank in reached)
            found.append((when, Milestone(text, tuple(sorted(reached)), tuple(sorted(missing)))))
    return tuple(each for _, each in sorted(found, key=lambda pair: (-pair[0], pair[1].text)))


def _is_late(rank: Observation, own: Series, usual: float) -> bool:
    """Return whether a rank takes more than twice as long for its next line of this kind as it, or the others, usually do."""
    return _now_of(rank) - own.newest.time > _LATE_TIMES * max(_pause(own), usual) + _LATE_SEC


def _usual_pause(series: Mapping[int, Series]) -> float:
    """Return the mean seconds from one line to the next of the median rank."""
    return median([_pause(each) for each in series.values() if each.total > 1] or [0.0])


def _pause(series: Series) -> float:
    return (series.newest.time - series.samples[0].time) / max(1, series.total - 1)


class _Passed:
    """Tells which ranks should have logged a kind of line by now that they have never logged, and the others (`reached`) have.

    `steps` are the numbers that grow, each with its place; `longest` is the longest silence of the median rank.
    """

    def __init__(
        self,
        reached: Mapping[int, Series],
        most: int,
        *,
        steps: Sequence[tuple[Mapping[int, Series], int]],
        ranks: Mapping[int, Observation],
        longest: float,
    ) -> None:
        self._reached, self._steps, self._ranks, self._longest = reached, steps, ranks, longest
        ages = sorted((_now_of(ranks[each]) - one.samples[0].time for each, one in reached.items()), reverse=True)
        self._seconds = ages[most - 1]  # since most have logged it
        self._settled = self._seconds > max(_SILENT_SEC, _LATE_TIMES * (ages[0] - ages[-1]))
        self._places: list[tuple[float, float] | None] | None = None

    def by(self, rank: int) -> bool:
        """Return whether this rank should have logged it."""
        own = self._ranks[rank]
        if not self._settled:
            return False
        if own.silence >= self._seconds:  # it has logged nothing since, which is no news of a rank that logs rarely
            return own.silence > _SILENT_TIMES * max(own.longest, self._longest)
        if self._places is None:
            self._places = [self._place(series, place) for series, place in self._steps]
        for (series, place), then in zip(self._steps, self._places, strict=True):
            if rank in series and then is not None and _at(series[rank].newest, place) < then[0]:
                return _is_late(own, series[rank], then[1])  # else it is on its way to where the others were then
        return True

    def _place(self, series: Mapping[int, Series], place: int) -> tuple[float, float] | None:
        """Return the number that the others had reached when they logged the line, and the usual seconds between numbers."""
        then = [_number_at(series[each], place, one.samples[0].time) for each, one in self._reached.items() if each in series]
        known = [number for number in then if number == number]
        return (median(known), _usual_pause(series)) if known else None


def _number_at(series: Series, place: int, when: float) -> float:
    """Return about which number the rank had reached at a time by its clock."""
    before = [sample for sample in series.samples if sample.time <= when] or series.samples[:1]
    after = [sample for sample in series.samples if sample.time > when] or series.samples[-1:]
    first, last = before[-1], after[0]
    share = (when - first.time) / (last.time - first.time) if first.time <= when < last.time else 0.0
    return _at(first, place) + share * (_at(last, place) - _at(first, place))


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
