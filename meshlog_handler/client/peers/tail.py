"""Tail: the last lines and records of a worker, and their texts."""

from __future__ import annotations

import io
import logging
import marshal
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

from ...grouping.sizes import size_of
from ...protocol.decode import Item

TAIL: Final = 20
MAX_ITEM: Final = 8192
"""Bytes of a line or record beyond which only its beginning is kept."""

_MAX_TEXT: Final = 2048
_VERSION: Final = 2
"""Of the format of `marshal`: later versions look for objects that occur twice, which takes longer than to write them."""

_Part = tuple[list[Any], bytes]
"""Entries, and the times and values of those that are templates, packed. The other entries are items as they are."""


class Tail:
    """The latest items, for exit reports. Packed, because ten thousand workers have one each. Client thread only."""

    __slots__ = ("_newer", "_older")

    def __init__(self) -> None:
        self._older: _Part | None = None  # None: `_newer` has enough
        self._newer: _Part = [], b""

    def add(self, items: Sequence[Item]) -> None:
        """Keep the latest items."""
        kept = items[-TAIL:]
        entries, data = self._newer
        if len(entries) >= TAIL and kept:
            self._older = self._newer
            entries, data = [], b""
        packed = _packed(kept)
        if packed is None:
            entries += map(abridged, kept)
        else:
            entries += [template for _, template, _ in kept]
            data += packed
        self._newer = entries, data
        if len(entries) >= TAIL:
            self._older = None

    def __iter__(self) -> Iterator[Item]:
        items = [item for part in (self._older, self._newer) if part is not None for item in _unpacked(part)]
        return iter(items[-TAIL:])


def _packed(items: Sequence[Item]) -> bytes | None:
    """Return the times and values of items; None if one is large, or has other values than plain data."""
    for template in {template for _, template, _ in items}:
        if template is None or size_of(template.base.get("msg")) > MAX_ITEM:
            return None
    packed = b""
    try:
        for when, _, values in items:
            packed += marshal.dumps((when, values), _VERSION)
            if len(packed) > MAX_ITEM:
                return None
    except ValueError:  # the state of a progress bar, for example
        return None
    return packed


def _unpacked(part: _Part) -> Iterator[Item]:
    entries, data = part
    file = io.BytesIO(data)
    for entry in entries:
        if isinstance(entry, tuple):
            yield entry
        else:
            when, values = marshal.load(file)
            yield when, entry, values


def abridged(item: Item) -> Item:
    """Return an item that `last_lines` can format, in place of one that takes much memory."""
    when, template, values = item
    if template is None or size_of(values) + size_of(template.base.get("msg")) <= MAX_ITEM:
        return item
    return when, _Abridged(template, values), ()


class _Abridged:
    """The formatted beginning of a long line or record."""

    __slots__ = ("captured", "final", "info", "text")

    def __init__(self, template: Any, values: Any) -> None:
        text = _format(template.build(values))
        self.text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... [{len(text) - _MAX_TEXT:,} more characters]"
        self.info = template.info
        self.captured = template.captured
        self.final = not template.captured or template.line(values).final

    def line(self, _: object) -> _Abridged:
        """Return an object whose `final` says whether the line is complete."""
        return self


def last_lines(tail: Iterable[Item]) -> list[str]:
    """Return the last lines of a worker as they were shown, each traceback as its last line."""
    # Items of pipes and of the connection arrive in no common order.
    in_time = sorted(tail, key=itemgetter(0))
    items = [item for item in in_time if item[1] is not None]
    newest = {template.info.stream: place for place, (_, template, _) in enumerate(items) if template.captured}
    lines: list[str] = []
    before = None
    for place, (when, template, values) in enumerate(items):
        # A progress state that was replaced, or became a line, is left out, except the newest one of each stream.
        if template.captured and not template.line(values).final and newest[template.info.stream] != place:
            continue
        line = template.text if isinstance(template, _Abridged) else _format(template.build(values))
        if template.captured or (when, line) != before:  # else another MeshHandler has forwarded the same record
            lines.append(line)
        before = when, line
    return lines


def last_records(tail: Iterable[Item]) -> list[logging.LogRecord]:
    """Return the records and complete lines among the last ones, the oldest first. Long ones are left out."""
    return [
        template.build(values)
        for _, template, values in sorted(tail, key=itemgetter(0))
        if template is not None and not isinstance(template, _Abridged) and (template.ordinary or not template.is_shown(values))
    ]


def last_text(tail: Iterable[Item]) -> str:
    """Return the text of the last line or record, or "". A long one is cut."""
    items = [item for item in tail if item[1] is not None]
    if not items:
        return ""
    _, template, values = max(reversed(items), key=itemgetter(0))  # of equal times, the one that arrived last
    text: str = template.text if isinstance(template, _Abridged) else template.text(values)
    return text.rstrip("\n")[:_MAX_TEXT]


def _format(record: Any) -> str:
    text = record.getMessage().rstrip("\n")
    if record.exc_text:
        text = f"{text}: {record.exc_text.rstrip().rpartition(chr(10))[2]}"
    return text if record.meshlog.stream else f"{logging.getLevelName(record.levelno)} {record.name}: {text}"
