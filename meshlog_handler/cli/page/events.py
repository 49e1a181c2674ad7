"""An Event: a record or captured line as the page needs it. Also joins the lines of captured tracebacks. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, NamedTuple

from ...grouping.tracebacks import GROUP_HEAD, HEADS, Part, part_after

CLIENT: Final = -1
"""The rank of what the client itself logs."""

_MAX_JOINED: Final = 200
_NUMBER: Final = r"[-+]?\d[\d,:]*(?:\.\d+)?(?:[eE][-+]?\d+)?"
_RANGE: Final = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_GROUP: Final = re.compile(r"\[\d+ similar log lines(?: in \d+ s)?\] (?:\[ranks? [\d,-]+\] )?")


class Event(NamedTuple):
    """A record or a captured line.

    `time` is in seconds since the epoch. `source` is the logger, ``stdout`` or ``stderr``. It stands for `lines` similar ones.
    """

    time: float
    rank: int
    level: int
    source: str
    text: str
    lines: int = 1

    @property
    def captured(self) -> bool:
        """Whether it is a captured line."""
        return self.source in ("stdout", "stderr")


class Joiner:
    """Makes one event of the lines of a captured traceback."""

    def __init__(self) -> None:
        self._open: dict[Hashable, list[Event]] = {}

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event, and yield those that are complete."""
        key = event.rank, event.source
        lines = self._open.get(key)
        if lines is None:
            if event.captured and event.text in HEADS:
                self._open[key] = [event]
            else:
                yield event
            return
        part = part_after(Part.GROUP if lines[0].text == GROUP_HEAD else Part.FRAMES, event.text)
        if part not in (Part.LAST, Part.NONE) and len(lines) < _MAX_JOINED:
            lines.append(event)
            return
        del self._open[key]
        if part == Part.LAST:
            yield _joined([*lines, event])
        else:  # it is too long, it is a group, or it has no end
            yield _joined(lines)
            yield from self.feed(event)

    def flush(self) -> Iterator[Event]:
        """Yield what has no end yet."""
        open_, self._open = self._open, {}
        yield from map(_joined, open_.values())


def ends_of(text: str) -> tuple[str, str] | None:
    """Return the text of a group with the lower ends of its ranges, and with the upper ends. None for any other text."""
    found = _GROUP.match(text)
    if found is None:
        return None
    merged = text[found.end() :]
    return _RANGE.sub(r"\1", merged), _RANGE.sub(r"\2", merged)


def headline(text: str) -> str:
    """Return the line that stands for a text: its first one, or of a traceback the one that names the exception."""
    group = _GROUP.match(text)
    start = group[0] if group else ""
    first, _, rest = text[len(start) :].partition("\n")
    if first in HEADS:
        first = ([first] + [line for line in outer(rest) if line and not line.startswith(" ")])[-1]
    return start + first


def outer(trace: str) -> list[str]:
    """Return the lines of a traceback, those of an exception group without its frame, which those inside it keep."""
    return [line.removeprefix("  | ") for line in trace.split("\n")]


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events of whole streams, each captured traceback as one event."""
    joiner = Joiner()
    for event in events:
        yield from joiner.feed(event)
    yield from joiner.flush()


def _joined(lines: list[Event]) -> Event:
    first = lines[0]
    return first._replace(level=logging.ERROR, text="\n".join(each.text for each in lines))
