"""Holds lines of all ranks for a window of time and merges similar lines into one record. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile
from logging import LogRecord
from typing import TYPE_CHECKING, Any, Final

from .arguments import NUMBERS
from .group import MAX_COMPARED, Group, Scope
from .similarity import TokenizedLine, mask_digits, profile, tokenize_unless_wordless
from .tracebacks import Part, Traceback, Tracebacks, begins, part_after, signature_of

if TYPE_CHECKING:
    from .template_types import AnyTemplate, CallTemplate, DigestTemplate, LineTemplate

_NOTHING: Final[tuple[LogRecord, ...]] = ()
_NEVER: Final = float("inf")
_AT_ONCE: Final = -_NEVER
_MAX_LEARNED: Final = 16 << 20
_MAX_HELD: Final = 32 << 20
_WEIGH_AFTER: Final = 4 << 20


class Aggregator:
    """Groups similar lines within a window of time. Not thread-safe.

    A group opens with its first line and is shown `window` seconds later. A group of one line is shown unchanged. A larger
    group is shown as ``[8 similar log lines] [ranks 0-7] step 12 loss=0.25..0.31``, and begins with ``[8 similar log lines in
    45 s]`` if 30 seconds or more passed from the first to the last. The first line of level `first_level` or above is shown at
    once; the group counts the lines after it. Groups are shown in the order in which they opened. The lines of a captured
    traceback are held until its last one, and then are one line: see `Tracebacks`.

    `window` is in seconds; None shows every line at once. If there are `max_groups` groups, or if groups take more than 32 MiB,
    the oldest groups are shown early. Lines that match a pattern of `never` are shown at once, ungrouped. Lines that match a
    pattern of `hide` are not shown, only counted. With `digests`, records of groups carry samples for `add_digest` of another
    aggregator.

    Attributes
    ----------
    received, shown, hidden : int
        Lines that were added; lines that the returned records represent (`count` lines, or one); lines that were hidden. A
        captured traceback counts as one.
        ``received == shown + hidden + pending`` always holds.
    """

    def __init__(
        self,
        window: float | None,
        *,
        max_groups: int = 2048,
        never: Iterable[str | re.Pattern[str]] = (),
        hide: Iterable[str | re.Pattern[str]] = (),
        digests: bool = False,
        first_level: int = logging.WARNING,
    ) -> None:
        self.received = self.shown = self.hidden = 0
        self._window = window
        self._max_groups = max_groups
        self._digests = digests
        self._first_level = first_level
        self._never = [re.compile(pattern) for pattern in never]
        self._hide = [re.compile(pattern) for pattern in hide]
        self._filters = window is None or bool(self._never or self._hide)
        self._groups: dict[Hashable, Group] = {}  # in the order in which they opened
        self._scopes: dict[Hashable, Scope] = {}
        self._learned = 0
        self._held = 0
        self._max_held: float = _MAX_HELD
        self._unweighed = 0
        self._tracebacks = Tracebacks()
        self._holds = True  # whether to hold tracebacks
        self._due = _NEVER  # when the first group is due. While a traceback is held, `_AT_ONCE`: `add` then examines each line.

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` has something to show (same clock as `now`), or None."""
        due = min(self._first_due(), self._tracebacks.due) if self._tracebacks else self._due
        return None if due == _NEVER else due

    @property
    def pending(self) -> int:
        """The number of lines held back."""
        return self.received - self.shown - self.hidden

    def add(self, template: AnyTemplate, values: Any, now: float) -> Sequence[LogRecord]:
        """Add a line at `now` (seconds); return the records to show at once, in order. Usually there are none."""
        if now >= self._due:
            return [*self.expire(now), *self._add_beside(template, values, now)]
        self.received += 1
        if self._filters:
            passed = self._filter(template, values, now)
            if passed is not None:
                return passed
        place = template.group
        if place is None:
            return self._add_text(template, values, now)
        key = (place, template.levelno, template.signature(values))
        group = self._groups.get(key)
        if group is None:
            return self._open(Group(key, now, None), template, values)
        arguments = group.arguments
        if arguments is None:
            self._count(group, template, values)
            return self._trimmed(_NOTHING)
        pending = arguments.pending
        pending.append(template.args(values))
        group.count += 1
        group.ranks.add(template.rank)
        if (when := template.when(values)) > group.until:
            group.until = when
        if len(pending) >= arguments.limit:
            arguments.reduce()
            self._held += group.weigh()
            return self._trimmed(_NOTHING)
        return _NOTHING

    def counts(self, template: CallTemplate, values: Any, now: float) -> bool:
        """Return whether `add` would only count such a record at `now`, and its arguments are all numbers."""
        if self._filters or now >= self._due or template.group is None:
            return False
        group = self._groups.get((template.group, template.levelno, None))
        return group is not None and group.arguments is not None and set(map(type, template.args(values))) <= NUMBERS

    def add_calls(self, template: CallTemplate, lines: Sequence[Any]) -> None:
        """Add many records of a template for which `counts` is true; equivalent to one `add` for each."""
        group = self._groups[template.group, template.levelno, None]
        assert group.arguments is not None
        group.arguments.take(template.columns(lines))
        group.count += len(lines)
        group.ranks.add(template.rank)
        group.until = max(group.until, template.when(lines[-1]))
        self.received += len(lines)

    def add_lines(self, template: LineTemplate, lines: Sequence[Any], now: float) -> Sequence[LogRecord]:
        """Add many lines of a template without signatures; equivalent to one `add` for each."""
        if self._filters or now >= self._due:
            return [record for values in lines for record in self.add(template, values, now)]
        out: list[LogRecord] = []
        key = (template.scope, template.levelno, None)
        scope = self._scopes.get(key)
        left = zip(lines, map(template.text, lines), map(template.digit_mask, lines), strict=True)
        for values, text, masked in left:
            known = scope.runs.get(masked) if scope is not None else None
            if known is None:
                out += self.add(template, values, now)
                scope = self._scopes.get(key)
                if self._tracebacks:
                    out += [record for values, _, _ in left for record in self.add(template, values, now)]
                continue
            self.received += 1
            run, group = known
            run.add(text)
            group.count += 1
            group.ranks.add(template.rank)
            if (when := template.when(values)) > group.until:
                group.until = when
        return out

    def add_digest(self, template: DigestTemplate, values: Any, now: float) -> Sequence[LogRecord]:
        """Add a digest of many lines from another aggregator; return the records to show at once."""
        count, ranks, until = template.weight(values)
        out = self.ahead_of(template, now)
        filters, self._holds = self._filters, False  # its text is whole
        try:
            if filters:
                passed = self._filter(template, values, now, count)
                if passed is not None:
                    self.received += count
                    return [*out, *passed]
            first, *others = template.samples(values)
            self._filters, self._due = False, _NEVER  # the whole digest was filtered; its samples are not
            self._max_held = _NEVER  # until all samples are added
            out += self.add(template, first, now)
            group = self._group_of(template, first)
            rest = count - 1 - len(others)
            self.received += rest
            if rest and group.record is None:  # the first line was shown at once; the others need a record
                self._count(group, template, first)
                rest -= 1
            group.count += rest
            group.ranks.update(ranks)
            group.until = max(group.until, until)
            for sample in others:
                self._due = _NEVER
                out += self.add(template, sample, now)
        finally:
            self._filters, self._holds = filters, True
            self._max_held = _MAX_HELD
            self._set_due()
        return self._trimmed(out)

    def took(self, size: int) -> Sequence[LogRecord]:
        """Note that lines of about `size` bytes were added; return the groups to show at once to limit memory."""
        self._unweighed += size  # arguments that are not merged yet take about as much memory
        if self._unweighed < _WEIGH_AFTER:
            return _NOTHING
        self._unweighed = 0
        for group in self._groups.values():
            if group.arguments is not None:
                group.arguments.reduce()
                self._held += group.weigh()
        return self._trimmed(_NOTHING)

    def _trimmed(self, out: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Return `out`, and the oldest groups if all groups take too much memory."""
        left = self._held
        if left <= self._max_held:
            return out
        oldest = []
        for group in self._groups.values():
            oldest.append(group)
            left -= group.size
            if left <= self._max_held:
                break
        return [*out, *self._close(oldest)]

    def expire(self, now: float) -> list[LogRecord]:
        """Return the records of the groups whose window has ended at `now`, and tracebacks that are held no longer."""
        window = self._window
        if now < self._due or window is None:
            return []
        out = self._close(list(takewhile(lambda group: group.opened + window <= now, self._groups.values())))
        return [*out, *self._add_tracebacks(self._tracebacks.expire(now), now)] if self._tracebacks else out

    def flush(self) -> list[LogRecord]:
        """Return the records of all groups. The next similar line opens a new group."""
        out = self._add_tracebacks(self._tracebacks.flush(), 0.0)
        return [*out, *self._close(list(self._groups.values()))]

    # -- tracebacks ------------------------------------------------------------------------------------------------

    def ahead_of(self, template: AnyTemplate, now: float) -> list[LogRecord]:
        """Return what must be shown before a line that is not added: expired groups, and the traceback of its stream."""
        out = self.expire(now)
        found = self._tracebacks.of_stream(template)
        return [*out, *(self._add_tracebacks([self._tracebacks.take(found)], now) if found else self.end(template.rank, now))]

    def end(self, rank: int | None, now: float, *, whole: bool = True) -> list[LogRecord]:
        """Hold the tracebacks of a rank no longer. If `whole`, only those whose last line was added."""
        return self._add_tracebacks(self._tracebacks.take_of(rank, whole=whole), now) if self._tracebacks else []

    def _add_beside(self, template: AnyTemplate, values: Any, now: float) -> Sequence[LogRecord]:
        """Add a line while a traceback may be held, which it may be a part of."""
        found = self._tracebacks.of_stream(template)
        if found is None:
            return [*self.end(template.rank, now), *self._add_apart(template, values, now)]
        text = template.text(values)
        part = part_after(found.part, text)
        if not part:
            out = self._add_tracebacks([self._tracebacks.take(found)], now)
            return [*out, *self._add_apart(template, values, now)]
        found.never = found.never or any(pattern.search(text) for pattern in self._never)
        hidden = self.hides(text)
        if hidden:
            self.received += 1
            self.hidden += 1
        return self._add_tracebacks(self._tracebacks.add(found, None if hidden else template, values, part, now), now)

    def _add_apart(self, template: AnyTemplate, values: Any, now: float) -> Sequence[LogRecord]:
        """Add a line that is no part of what is held."""
        self._due = _NEVER
        try:
            return self.add(template, values, now)
        finally:
            self._set_due()

    def _hold(self, template: AnyTemplate, values: Any, now: float, never: bool = False) -> Sequence[LogRecord]:
        held = self._tracebacks
        found = held.begin(template.rank, template.source, never)
        return self._add_tracebacks(held.add(found, template, values, part_after(Part.NONE, template.text(values)), now), now)

    def _add_tracebacks(self, tracebacks: Iterable[Traceback], now: float) -> list[LogRecord]:
        """Group tracebacks that are no longer held, each as one line."""
        out: list[LogRecord] = []
        for each in tracebacks:
            lines, others = each.split()
            template, values = lines[0]
            if len(lines) > 1:
                values = template.joined([values for _, values in lines])
            if each.never:
                self.shown += 1
                out.append(template.build(values))
            else:
                holds, self._holds = self._holds, False
                try:
                    out += self._add_text(template, values, now)
                finally:
                    self._holds = holds
            for template, values in others:
                out += self._add_apart(template, values, now)
        self._set_due()
        return out

    def hides(self, text: str) -> bool:
        """Return whether a line is not to be shown."""
        return any(pattern.search(text) for pattern in self._hide)

    def _filter(self, template: AnyTemplate, values: Any, now: float, count: int = 1) -> Sequence[LogRecord] | None:
        if self._hide or self._never:
            text = template.text(values)
            if self.hides(text):
                self.hidden += count
                return _NOTHING
            if any(pattern.search(text) for pattern in self._never):
                if self._window is not None and self._holds and template.source is not None and begins(text):
                    return self._hold(template, values, now, never=True)
                self.shown += count
                return (template.build(values),)
        if self._window is None:
            self.shown += count
            return (template.build(values),)
        return None

    def _group_of(self, template: AnyTemplate, values: Any) -> Group:
        """Return the group to which `add` has just added a line."""
        if template.group is not None:
            return self._groups[template.group, template.levelno, template.signature(values)]
        text = template.text(values)
        scope = self._scopes[template.scope, template.levelno, _signature(template, values, text)]
        shape = tokenize_unless_wordless(text).shape
        # The group may have forgotten this shape since. Then it is found again, in the same way as the first time.
        found = scope.shapes.get(shape) or (scope.nearest(shape, profile(shape)) if len(shape) <= MAX_COMPARED else None)
        assert found is not None
        return found

    def _open(
        self, group: Group, template: AnyTemplate, values: Any, tokens: TokenizedLine | None = None
    ) -> Sequence[LogRecord]:
        out: list[LogRecord] = []
        if len(self._groups) >= self._max_groups:
            out = self._close([next(iter(self._groups.values()))])
        self._groups[group.key] = group
        if len(self._groups) == 1:
            self._set_due()
        if template.levelno >= self._first_level:
            self.shown += 1
            out.append(template.build(values))
            self._held += group.weigh()
        else:
            self._count(group, template, values, tokens)
        return self._trimmed(out) if out or self._held > self._max_held else _NOTHING

    def _count(self, group: Group, template: AnyTemplate, values: Any, tokens: TokenizedLine | None = None) -> None:
        """Count a line in its group if more is needed than to append its arguments or its text."""
        group.count += 1
        group.ranks.add(template.rank)
        group.until = max(group.until, template.when(values))
        text = template.text(values)
        if group.record is None:
            args = None if template.group is None else template.args(values)
            if group.begin(template.build(values), args, text):
                self._held += group.weigh()
                return
        self._learned += group.add_text(text, tokens)
        self._held += group.weigh()
        if self._learned > _MAX_LEARNED:
            for known in self._groups.values():
                self._learned -= known.forget()

    def _add_text(self, template: AnyTemplate, values: Any, now: float) -> Sequence[LogRecord]:
        text = template.text(values)
        signature = template.signature(values)
        if template.levelno >= logging.ERROR and template.source is not None:
            if self._holds and begins(text):
                return self._hold(template, values, now)
            signature = signature_of(text)
        key = (template.scope, template.levelno, signature)
        scope = self._scopes.get(key)
        if scope is None:
            scope = self._scopes[key] = Scope(key)
        known = scope.runs.get(mask_digits(text))
        if known is not None:
            run, group = known
            run.add(text)
            group.count += 1
            group.ranks.add(template.rank)
            if (when := template.when(values)) > group.until:
                group.until = when
            return _NOTHING
        tokens = tokenize_unless_wordless(text)
        shape = tokens.shape
        found = scope.shapes.get(shape)
        if found is None:
            bits = None if tokens.wordless or len(shape) > MAX_COMPARED else profile(shape)
            found = None if bits is None else scope.nearest(shape, bits)
            if found is None:
                group = Group((key, shape), now, scope)
                scope.open(group, shape, bits)
                return self._open(group, template, values, tokens)
            self._learned += found.alias(shape)
        self._count(found, template, values, tokens)
        return self._trimmed(_NOTHING)

    def _close(self, groups: Iterable[Group]) -> list[LogRecord]:
        out: list[LogRecord] = []
        for group in groups:
            del self._groups[group.key]
            self._learned -= group.forget()
            self._held -= group.size
            scope = group.scope
            if group.shapes:
                scope.close(group.shapes[0])
                if not scope.shapes:
                    del self._scopes[scope.key]
            self.shown += group.count
            record = group.result(digest=self._digests)
            if record is not None:
                out.append(record)
        self._set_due()
        return out

    def _set_due(self) -> None:
        self._due = _AT_ONCE if self._tracebacks else self._first_due()

    def _first_due(self) -> float:
        first = next(iter(self._groups.values()), None)
        return _NEVER if first is None or self._window is None else first.opened + self._window


def _signature(template: AnyTemplate, values: Any, text: str) -> Hashable | None:
    """Return the value that distinguishes exceptions, also of a captured traceback."""
    return (
        signature_of(text) if template.source is not None and template.levelno == logging.ERROR else template.signature(values)
    )
