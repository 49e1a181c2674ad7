"""A Watch: what one process has logged and printed, in bounded memory. Pure; the client's thread feeds it.

To feed it is cheap: counts and references only. `Seen.series` does the work, when somebody asks and on the thread that asks.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from ..grouping.tracebacks import Part, part_after
from ..protocol.decode import Item
from .series import Series, chosen, measure_call, measure_text, short, valid_time

MAX_SERIES: Final = 256
"""Templates, and kinds of texts, that are kept of each process: with 4 samples of at most 1 KiB each, less than 4 MB."""

MAX_FAILURES: Final = 64
_BURST: Final = 500
_TEXTS_A_SEC: Final = 64
_SPACING_SEC: Final = 10.0
_RATE_SEC: Final = 5.0
_DRAIN_SEC: Final = 1.0
_MAX_TOUCHED: Final = 1024
_MAX_TRACE: Final = 200
_KEY: Final = 256
_FRAME: Final = re.compile(r'[ |]+File "(.*)", line (\d+)')
_GROUP: Final = re.compile(r"  \| ([^ ].*)")
"""The line of an exception group that names it."""

Place = tuple[str, str, int]
"""The signature of an exception: its type, and the file and line that raised it."""

Kept = list[Any]


class Decoded(Protocol):
    """What a `RecordDecoder` has put aside."""

    touched: list[Item]
    texts: list[Item]


class Seen(NamedTuple):
    """A copy of what a watch knows, for another thread. Times are in seconds since the epoch."""

    last: float
    longest: float
    rate_since: tuple[float, int]
    sampled: bool
    levels: dict[int, int]
    templates: list[tuple[Any, int, tuple[Item, ...]]]
    texts: list[tuple[int, int, tuple[tuple[float, str], ...]]]
    failures: dict[Place, tuple[float, str]]

    def series(self) -> dict[tuple[int, str], Series]:
        """Return the series by level and shape."""
        found: dict[tuple[int, str], Series] = {}
        for template, count, items in self.templates:
            if not items:  # its texts are counted apart
                continue
            measured = [
                measure_call(template.base["msg"], template.args(values), template.text(values), valid_time(when))
                for when, _, values in items
            ]
            _add(found, template.levelno, count, measured)
        for level, count, texts in self.texts:
            _add(found, level, count, [measure_text(text, valid_time(when)) for when, text in texts])
        return found

    def count_levels(self) -> tuple[int, int]:
        """Return the numbers of warnings, and of errors and worse."""
        levels = [*self.levels.items(), *((template.levelno, count) for template, count, _ in self.templates)]
        warnings = sum(count for level, count in levels if logging.WARNING <= level < logging.ERROR)
        return warnings, sum(count for level, count in levels if level >= logging.ERROR)


def _add(found: dict[tuple[int, str], Series], level: int, count: int, measured: Sequence[tuple[str, Any]]) -> None:
    shape = measured[-1][0]  # the texts of one kind may have several shapes; the latest stands for all
    series = Series(count, chosen(sample for each, sample in measured if each == shape))
    known = found.get((level, shape))
    found[level, shape] = series if known is None else known.merged(series)


class Watch:
    """The watch over one process. Not thread-safe.

    Of a process that logs or prints more than 64 varying texts per second, after the first 500, only a part is examined:
    `sampled` is then true. Records that share a template are always counted exactly, and so are warnings and errors.
    """

    __slots__ = (
        "_drained",
        "_failures",
        "_last",
        "_left",
        "_levels",
        "_longest",
        "_old",
        "_older",
        "_part",
        "_sampled",
        "_templates",
        "_texts",
        "_trace",
    )

    def __init__(self) -> None:
        self._last = self._longest = self._drained = 0.0
        self._older: tuple[float, int] | None = None
        self._old: tuple[float, int] = (0.0, 0)
        self._left: float = _BURST
        self._sampled = False
        self._part = Part.NONE  # of a traceback, whose lines are `_trace`: what the last line of level WARNING or above was
        self._trace: list[str] | None = None
        # None until needed: there may be ten thousand watches.
        self._templates: dict[Any, Kept] | None = None
        self._texts: dict[tuple[int, bytes], Kept] | None = None
        self._levels: dict[int, int] | None = None
        self._failures: dict[Place, tuple[float, str]] | None = None

    # -- feeding ---------------------------------------------------------------------------------------------------

    def add_records(self, decoded: Decoded, now: float, total: int) -> None:
        """Take what was decoded. `total` is the number of records and lines of the process so far."""
        self._note(now, total)
        if decoded.texts:
            texts, decoded.texts = decoded.texts, []
            for item in self._affordable(texts):
                when, template, values = item
                text = template.text(values)
                self._count(template.levelno, _key(text), when, text)
                failure = template.failure(values)
                if failure:
                    self._note_failure(failure, when)
        if now - self._drained >= _DRAIN_SEC or len(decoded.touched) > _MAX_TOUCHED:
            self._drained = now
            self.drain(decoded)

    def drain(self, decoded: Decoded) -> None:
        """Keep samples of the templates that were used since the last call."""
        touched, decoded.touched = decoded.touched, []
        if self._templates is None:
            self._templates = {}
        for first in touched:
            template = first[1]
            newest, template.newest = template.newest, None
            kept = self._templates.get(template)
            if kept is not None:
                if newest is not None:
                    _keep(kept, newest)
            elif newest is None and len(self._templates) < MAX_SERIES:
                self._templates[template] = []  # only counted
            elif len(self._templates) < MAX_SERIES:
                self._templates[template] = [first] if first is newest else [first, newest]
            else:
                self._sampled = True
                self._count_level(template.levelno, template.count)
                template.count = 0

    def add_lines(self, items: Sequence[Item], notable: Sequence[Item], now: float, total: int) -> None:
        """Take captured lines. `notable` are those of level WARNING and above. `total`: see `add_records`."""
        self._note(now, total)
        for when, template, values in notable:
            self._examine(template.levelno, values[2], when)
        # One entry for each digit mask: most lines of a batch share a few.
        lines = [
            (values[3], when, values[2])
            for when, template, values in self._affordable(items)
            if (values[1] is None or values[1].final or values[1].progress) and template.levelno < logging.WARNING
        ]
        newest = {mask: (when, text) for mask, when, text in lines}
        first = {mask: (when, text) for mask, when, text in reversed(lines)}
        for mask, count in Counter(map(itemgetter(0), lines)).items():
            if mask:
                key = mask[:_KEY].translate(None, b"0.")
                self._count(logging.INFO, key, *first[mask])
                if count > 1:
                    self._count(logging.INFO, key, *newest[mask], count - 1)

    def _note(self, now: float, total: int) -> None:
        gap = now - self._last
        if gap > self._longest and self._last:
            self._longest = gap
        self._last = now
        if now - self._old[0] >= _RATE_SEC:
            self._older, self._old = (self._old if self._old[0] else None), (now, total)
            self._left = min(_BURST, self._left + _RATE_SEC * _TEXTS_A_SEC)

    def _affordable(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items to examine: all, or the latest that the rate allows and those of level WARNING and above."""
        left = max(1, int(self._left))
        self._left = max(0.0, self._left - len(items))
        if len(items) <= left:
            return items
        self._sampled = True
        first = items[0][1]
        if first.captured:  # the notable ones are examined apart
            return items[-left:]
        return [item for item in items[:-left] if item[1].levelno >= logging.WARNING] + list(items[-left:])

    def _count(self, level: int, key: bytes, when: float, text: str, count: int = 1) -> None:
        if b"%|" in key:  # a bar, whose drawing varies
            key = key.partition(b"%|")[0]
        if self._texts is None:
            self._texts = {}
        known = self._texts.get((level, key))
        if known is not None:
            known[0] += count
            _keep(known[1], (when, short(text)))
            return
        if len(self._texts) >= MAX_SERIES:
            self._sampled = True
            del self._texts[next(iter(self._texts))]
        self._texts[level, key] = [count, [(when, short(text))]]

    def _count_level(self, level: int, count: int) -> None:
        if level >= logging.WARNING:
            if self._levels is None:
                self._levels = {}
            self._levels[level] = self._levels.get(level, 0) + count

    def _examine(self, level: int, text: str, when: float) -> None:
        """Take a captured line of level WARNING or above; a traceback or a dump counts once."""
        part = part_after(self._part, text) if self._part else Part.NONE
        if part:
            self._part = part
            self._add_to_trace(part, text, when)
            return
        self._part = part_after(Part.NONE, text) if level >= logging.ERROR else Part.NONE
        self._trace = None
        if self._part in (Part.FRAMES, Part.GROUP):
            self._trace = []
        else:
            self._count(level, _key(text), when, text)
        self._count_level(level, 1)

    def _add_to_trace(self, part: Part, text: str, when: float) -> None:
        """Take a line of a traceback; note the failure with the line that tells which."""
        trace = self._trace
        if trace is None:
            return
        if part == Part.FRAMES or (part == Part.GROUP and not (found := _GROUP.match(text))):
            trace.append(text[:_KEY])
            del trace[:-_MAX_TRACE]
            return
        self._trace = None
        text = found[1] if part == Part.GROUP and found else text
        frames = [match for line in trace if (match := _FRAME.match(line)) is not None]
        file, line = (frames[-1][1], int(frames[-1][2][:9])) if frames else ("", 0)
        self._fail((text.partition(":")[0], file, line), when, short(text))

    def _note_failure(self, failure: tuple[Any, ...], when: float) -> None:
        _, module, name, message, _, frames, *_ = failure
        kind = name if module in ("builtins", "__main__") else f"{module}.{name}"
        file, line = frames[-1][:2] if frames else ("", 0)
        self._fail((kind, file, line), when, short(f"{kind}: {message}" if message else kind))

    def _fail(self, place: Place, when: float, text: str) -> None:
        if self._failures is None:
            self._failures = {}
        if place not in self._failures and len(self._failures) < MAX_FAILURES:
            self._failures[place] = valid_time(when), text

    # -- reading ---------------------------------------------------------------------------------------------------

    def seen(self, decoded: Decoded) -> Seen:
        """Return a copy of what is known."""
        self.drain(decoded)
        return Seen(
            self._last,
            self._longest,
            self._older or self._old,
            self._sampled,
            dict(self._levels or {}),
            [(template, template.count, tuple(kept)) for template, kept in (self._templates or {}).items()],
            [(level, count, tuple(kept)) for (level, _), (count, kept) in (self._texts or {}).items()],
            dict(self._failures or {}),
        )


def _key(text: str) -> bytes:
    """Return what texts of one kind share: cheaper than their shape, and the same for most texts of one shape."""
    return text[:_KEY].encode("utf-8", "surrogatepass").translate(None, b"0123456789.")


def _keep(kept: Kept, newest: Any) -> None:
    """Add the latest sample. It replaces the one before, unless that is long enough after its predecessor."""
    if len(kept) < 2:
        kept.append(newest)
    elif newest[0] - kept[-2][0] < _SPACING_SEC:
        kept[-1] = newest
    else:
        del kept[1 : len(kept) - 2]
        kept.append(newest)
