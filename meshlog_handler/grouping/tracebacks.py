"""Captured tracebacks and dumps of crashes: which lines belong to one, and holding them, so that it is one text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Any, Final

from .sizes import size_of

HEAD: Final = "Traceback (most recent call last):"
GROUP_HEAD: Final = "  + Exception Group Traceback (most recent call last):"
HEADS: Final = (HEAD, GROUP_HEAD)
LINKS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
DUMP_HEAD: Final = "Fatal Python error:"
_DUMP_PART: Final = re.compile(r"(Current t|T)hread 0x|Current thread's C stack|Python runtime state:|Extension modules:|<\w")
_GROUP_LINE: Final = re.compile(r" +[|+]")
_GROUP_END: Final = re.compile(r" +\+-+\Z")
_MESSAGE: Final = re.compile(r"^([ |]*[^\s:|][^\s:]*): .*$", re.MULTILINE)
_MAX_SIZE: Final = 1 << 20
_MAX_HELD: Final = 16 << 20
_LONGEST_SEC: Final = 5.0
_QUIET_SEC: Final = 0.1
_NEVER: Final = float("inf")


class Part(IntEnum):
    """The role of a line in a traceback."""

    NONE = 0  # in no traceback
    FRAMES = 1  # its head, or a line below
    LAST = 2
    GROUP = 3  # the same of an exception group, of which each line is indented
    GROUP_LAST = 4
    DUMP = 5  # in a dump of `faulthandler`, of which no line is known to be the last
    # The lines between two tracebacks that belong together, and between the parts of a dump.
    GAP = 6
    LINK = 7
    GAP_BEFORE_HEAD = 8
    DUMP_GAP = 9


def begins(text: str) -> bool:
    """Return whether a line is the head of a traceback or of a dump."""
    return text in HEADS or (text.startswith(DUMP_HEAD) and "\n" not in text)


def part_after(before: Part, text: str) -> Part:
    """Return the role of a line. `before` is the role of the line before it in the stream. After NONE comes a head, or NONE."""
    if before == Part.FRAMES:
        if text.startswith(" "):
            return Part.FRAMES
        return Part.LAST if text and text != HEAD else Part.NONE
    if before in (Part.GROUP, Part.GROUP_LAST) and _GROUP_LINE.match(text) and text != GROUP_HEAD:
        return Part.GROUP_LAST if _GROUP_END.match(text) else Part.GROUP
    if before in (Part.LAST, Part.GROUP_LAST):
        return Part.NONE if text else Part.GAP
    if before == Part.GAP:
        return Part.LINK if text in LINKS else Part.NONE
    if before == Part.LINK:
        return Part.NONE if text else Part.GAP_BEFORE_HEAD
    if before in (Part.DUMP, Part.DUMP_GAP):
        if _DUMP_PART.match(text) or (before == Part.DUMP and text.startswith("  ")):
            return Part.DUMP
        return Part.NONE if text or before == Part.DUMP_GAP else Part.DUMP_GAP
    if before == Part.NONE and text.startswith(DUMP_HEAD):
        return Part.DUMP
    if before in (Part.NONE, Part.GAP_BEFORE_HEAD) and text in HEADS:
        return Part.GROUP if text == GROUP_HEAD else Part.FRAMES
    return Part.NONE


def signature_of(text: str) -> str | None:
    """Return what similar tracebacks share, as similar exceptions do: all but the messages. None: it is no traceback."""
    return _MESSAGE.sub(r"\1", text) if text.startswith(HEADS) else None


class Traceback:
    """The lines of one stream since the head of a traceback or dump, each with its template. `never`: it is not grouped."""

    __slots__ = ("_began", "_known", "due", "lines", "never", "part", "rank", "size", "source")

    def __init__(self, rank: int | None, source: Hashable, never: bool) -> None:
        self.rank = rank
        self.source = source
        self.never = never
        self.lines: list[tuple[Any, Any]] = []
        self.size = 0  # bytes, approximately
        self.due = _NEVER
        self._began: float | None = None
        self.part = Part.NONE
        self._known = 0  # lines up to the last one that is certainly a part

    @property
    def whole(self) -> bool:
        """Whether it has its last line. Only another one that it is joined to can follow."""
        return self.part in (Part.LAST, Part.GROUP_LAST, Part.GAP)

    def add(self, template: Any, values: Any, part: Part, now: float) -> None:
        """Add a line at `now` (seconds). Without a template, it is left out."""
        self.part = part
        if template is not None:
            self.lines.append((template, values))
            self.size += size_of(values)
        if part < Part.GAP:
            self._known = len(self.lines)
        if self._began is None:
            self._began = now
        soon = self.whole or part in (Part.DUMP, Part.DUMP_GAP)
        self.due = now + _QUIET_SEC if soon else self._began + _LONGEST_SEC

    def split(self) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        """Return its lines, and those after them that join it to nothing."""
        return self.lines[: self._known], self.lines[self._known :]


class Tracebacks:
    """Holds the tracebacks of all streams. Not thread-safe. As a truth value: whether there are any.

    Each is held until its last line, and 0.1 seconds longer if no other line follows: it may be joined to another one. Without
    a last line, it is held for 5 seconds, a dump for 0.1 seconds after each line. One takes at most 1 MiB, and all 16 MiB.
    """

    def __init__(self) -> None:
        self._held: dict[int | None, dict[Hashable, Traceback]] = {}  # by rank and stream
        self._size = 0
        self.due = _NEVER  # nothing is due before this time

    def __bool__(self) -> bool:
        return bool(self._held)

    def of_stream(self, template: Any) -> Traceback | None:
        """Return what is held of the stream of a line."""
        return self._held.get(template.rank, {}).get(template.source)

    def begin(self, rank: int | None, source: Hashable, never: bool) -> Traceback:
        """Return a new traceback of a stream, which is held from now on."""
        found = self._held.setdefault(rank, {})[source] = Traceback(rank, source, never)
        return found

    def add(self, found: Traceback, template: Any, values: Any, part: Part, now: float) -> list[Traceback]:
        """Add a line to a traceback; return those that are no longer held, to limit memory."""
        before = found.size
        found.add(template, values, part, now)
        self._size += found.size - before
        self.due = min(self.due, found.due)
        out = [self.take(found)] if found.size > _MAX_SIZE else []
        while self._size > _MAX_HELD:
            out.append(self.take(next(iter(next(iter(self._held.values())).values()))))
        return out

    def take(self, found: Traceback) -> Traceback:
        """Return a traceback that is no longer held."""
        streams = self._held[found.rank]
        del streams[found.source]
        if not streams:
            del self._held[found.rank]
        self._size -= found.size
        return found

    def take_of(self, rank: int | None, *, whole: bool) -> list[Traceback]:
        """Return those of a rank, which are no longer held. If `whole`, only those with their last lines."""
        return [self.take(each) for each in tuple(self._held.get(rank, {}).values()) if each.whole or not whole]

    def expire(self, now: float) -> list[Traceback]:
        """Return those that are due, and hold them no longer."""
        if now < self.due:
            return []
        return self._take_each(lambda each: each.due <= now)

    def flush(self) -> list[Traceback]:
        """Return all, and hold none any longer."""
        return self._take_each(lambda each: True)

    def _take_each(self, chosen: Callable[[Traceback], bool]) -> list[Traceback]:
        every = [each for streams in self._held.values() for each in streams.values()]
        out = [self.take(each) for each in every if chosen(each)]
        self.due = min((each.due for streams in self._held.values() for each in streams.values()), default=_NEVER)
        return out
