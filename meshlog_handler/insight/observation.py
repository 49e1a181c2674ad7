"""An Observation: what is known about one rank, as plain data that relays pass on. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final

from ..errors import ProtocolError
from .series import MAX_SAMPLES, Sample, Series, valid_time
from .watch import Place, Seen

STATES: Final = ("running", "silent", "stopped", "unreachable", "dead", "ended")
"""The states of a rank, the one that counts first if processes of one rank differ."""

MAX_SHAPES: Final = 1024
_TEXT: Final = 2048


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known about one rank.

    `silence` and `longest` are in seconds: the time since its last record or line, and the longest time between two of them.
    `worked` are the processor seconds of its processes, if they were asked for; `runnable` is whether they run or wait for a
    core, and `crowded` whether more want to run on their host than it has cores.
    """

    rank: int
    state: str = "running"
    silence: float = 0.0
    longest: float = 0.0
    last_line: str = ""
    records: int = 0
    lines: int = 0
    rate: float = 0.0
    warnings: int = 0
    errors: int = 0
    dropped: int = 0
    sampled: bool = False
    end: str = ""
    worked: float = 0.0
    runnable: bool = False
    crowded: bool = False
    series: dict[tuple[int, str], Series] = field(default_factory=dict)
    failures: dict[Place, tuple[float, str]] = field(default_factory=dict)

    def with_seen(self, seen: Seen, now: float) -> Observation:
        """Return a copy with what a watch knows."""
        since, before = seen.rate_since
        warnings, errors = seen.count_levels()
        seconds = now - since
        return replace(
            self,
            longest=seen.longest,
            rate=(self.records + self.lines - before) / seconds if since and seconds > 0 else 0.0,
            warnings=warnings,
            errors=errors,
            sampled=seen.sampled,
            series=seen.series(),
            failures=seen.failures,
        )

    def merged(self, other: Observation) -> Observation:
        """Return what both processes of a rank have done. Associative and commutative."""
        first, second = sorted((self, other), key=_order)
        series = dict(first.series)
        for key, theirs in second.series.items():
            series[key] = series[key].merged(theirs) if key in series else theirs
        failures = dict(first.failures)
        for place, failure in second.failures.items():
            failures[place] = min(failures.get(place, failure), failure)
        return Observation(
            self.rank,
            first.state,
            first.silence,
            max(first.longest, second.longest),
            first.last_line,
            first.records + second.records,
            first.lines + second.lines,
            math.fsum((first.rate, second.rate)),
            first.warnings + second.warnings,
            first.errors + second.errors,
            first.dropped + second.dropped,
            first.sampled or second.sampled,
            first.end,
            math.fsum((first.worked, second.worked)),
            first.runnable or second.runnable,
            first.crowded or second.crowded,
            series,
            failures,
        )

    def plain(self) -> tuple[Any, ...]:
        """Return it as plain data."""
        series = tuple(
            (level, shape, each.total, tuple(map(tuple, each.samples))) for (level, shape), each in self.series.items()
        )
        failures = tuple((*place, *failure) for place, failure in self.failures.items())
        return (*(getattr(self, name) for name in _KINDS), series, failures)

    @classmethod
    def of(cls, plain: Any) -> Observation:
        """Return the observation of plain data; `ProtocolError` if it is malformed."""
        try:
            values, series, failures = plain[:-2], plain[-2], plain[-1]
            named: dict[str, Any] = dict(zip(_KINDS, values, strict=True))
            if not all(type(value) is _KINDS[name] for name, value in named.items()) or named["state"] not in STATES:
                raise ValueError("a field has another type than it should have")
            if (
                not all(abs(named[name]) < _MOST for name in ("silence", "longest", "rate", "worked"))
                or len(series) > MAX_SHAPES
            ):
                raise ValueError("a number is not finite, or there are too many series")
            return cls(
                **named,
                series={
                    (_of(int, level), _of(str, shape)): Series(_of(int, count), _samples(samples))
                    for level, shape, count, samples in series
                },
                failures={
                    (_of(str, kind)[:_TEXT], _of(str, file), _of(int, line)): (
                        valid_time(_of(float, when)),
                        _of(str, text)[:_TEXT],
                    )
                    for kind, file, line, when, text in failures
                },
            )
        except (TypeError, ValueError, LookupError) as cause:
            raise ProtocolError(f"malformed observation of a rank: {cause}") from None


_MOST: Final = 1e15
_KINDS: Final[dict[str, type]] = {
    "rank": int,
    "state": str,
    "silence": float,
    "longest": float,
    "last_line": str,
    "records": int,
    "lines": int,
    "rate": float,
    "warnings": int,
    "errors": int,
    "dropped": int,
    "sampled": bool,
    "end": str,
    "worked": float,
    "runnable": bool,
    "crowded": bool,
}


def _order(each: Observation) -> tuple[object, ...]:
    known = each.state in ("running", "silent", "stopped")  # to live
    return (not known, each.state != "unreachable", each.silence, STATES.index(each.state), each.last_line, each.end)


def _of(kind: type, value: Any) -> Any:
    """Return a value of this type; raise `ValueError` for any other."""
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"expected {kind.__name__}, got {value!r:.100}")
    return value


def _samples(samples: Any) -> tuple[Sample, ...]:
    if not 0 < len(samples) <= MAX_SAMPLES:
        raise ValueError("a series has no samples, or too many")
    return tuple(
        Sample(
            valid_time(_of(float, when)), tuple(None if each is None else _of(float, each) for each in numbers), _of(str, text)
        )
        for when, numbers, text in samples
    )


def by_rank(observations: Iterable[Observation]) -> dict[int, Observation]:
    """Return one observation for each rank, in the order of the ranks."""
    found: dict[int, list[Observation]] = {}
    for each in observations:
        found.setdefault(each.rank, []).append(each)
    return {rank: reduce(Observation.merged, found[rank]) for rank in sorted(found)}
