"""The text of tracebacks, as `traceback` writes it. The same stack is formatted once."""

from __future__ import annotations

import linecache
from traceback import FrameSummary, StackSummary, TracebackException
from typing import Any, Final

_MAX_KNOWN: Final = 256
_MAX_FRAMES: Final = 40

_Key = tuple[tuple[object, ...], ...]

_known: dict[_Key, tuple[list[object], list[str]]] = {}
"""Lines by stack, with the entries of `linecache` that they were made of: a source file that changes has another one."""


def format_exception(told: TracebackException) -> str:
    """Return the text of an exception, and of those behind it, without the newline at its end."""
    for each in _chain(told):
        each.stack = _Stack(each.stack)
    return "".join(told.format()).removesuffix("\n")


def _chain(told: TracebackException) -> list[TracebackException]:
    found = [told]
    for each in found:
        members = getattr(each, "exceptions", None) or ()
        found += [other for other in (each.__cause__, each.__context__, *members) if other is not None]
    return found


class _Stack(StackSummary):
    """A stack that remembers the lines of equal ones."""

    def format(self, **options: Any) -> list[str]:
        """Return the lines. Any thread."""
        if any(options.values()) or len(self) > _MAX_FRAMES:  # with colours, or too large to be kept
            return super().format(**options)
        key = tuple(map(_key, self))
        lines = _known.get(key)
        if lines is None or any(map(_differ, lines[0], self)):
            made = super().format(**options)
            sources: list[object] = [linecache.cache.get(frame.filename) for frame in self]
            if None in sources:  # no file, or none yet
                return made
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            lines = _known[key] = (sources, made)
        return lines[1]


def _differ(source: object, frame: FrameSummary) -> bool:
    return linecache.cache.get(frame.filename) is not source


def _key(frame: FrameSummary) -> tuple[object, ...]:
    places = (getattr(frame, "end_lineno", None), getattr(frame, "colno", None), getattr(frame, "end_colno", None))
    return (frame.filename, frame.lineno, frame.name, *places)
