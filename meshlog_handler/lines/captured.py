"""Turns the captured output of a process into items for the client: lines with levels. Pure, except for the `fd` of a pipe."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

from ..grouping.similarity import mask_digits, mask_digits_of_lines
from ..grouping.tracebacks import Part, part_after
from ..protocol.decode import Item
from ..protocol.record import MeshInfo, MeshRecord
from .cursor import CursorFramer
from .framer import Block, Line, display, level_of, may_have_levels, raw_text, text_of


class CapturedTemplate:
    """The captured lines of one process, stream and level.

    Values are ``(when, line, text, digit mask)``. If the line is None, the text is the complete line as it was written.
    """

    __slots__ = ("base", "group", "info", "levelno", "rank", "scope", "source")
    route = (None, "")
    captured = True
    ordinary = False
    when = staticmethod(itemgetter(0))
    """Return the time at which a line was read."""
    text = staticmethod(itemgetter(2))
    """Return the text that is displayed for a line."""
    digit_mask = staticmethod(itemgetter(3))
    """Return the digit mask of this text."""

    def __init__(self, base: Mapping[str, Any], info: MeshInfo, level: int) -> None:
        stream = info.stream
        named = {"name": stream, "levelno": level, "levelname": logging.getLevelName(level)}
        self.base = {**base, **info.attributes(), **named}
        self.info = info
        self.rank = info.rank
        self.levelno = level
        self.group: Hashable | None = None
        self.scope: Hashable = (stream, level)
        self.source: Hashable = (stream, info.hostname, base.get("process"))

    def args(self, values: tuple[Any, ...]) -> tuple[object, ...]:
        """Return no arguments: a captured line has none."""
        return ()

    def line_of(self, values: tuple[Any, ...]) -> str | None:
        """Return the text of a complete line as it was written, else None."""
        return values[2] if values[1] is None else None

    def line(self, values: tuple[Any, ...]) -> Line:
        """Return the captured line."""
        return values[1] or Line(values[2].encode(), True, False, 0)

    def joined(self, lines: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Return several complete lines as one, with newlines between them."""
        text, raw = "\n".join(map(self.text, lines)), b"\n".join([self.line(values).raw for values in lines])
        return lines[0][0], Line(raw, True, False, 0), text, mask_digits(text)

    def is_whole(self, values: tuple[Any, ...]) -> bool:
        """Return whether a line is complete and no part of it was shown. Only such lines are grouped."""
        line = values[1]
        return line is None or (line.final and not line.shown)

    def is_shown(self, values: tuple[Any, ...]) -> bool:
        """Return whether nothing is left to show: the whole line was shown, or a progress state erases the last one."""
        line = values[1]
        return line is not None and ((0 < line.shown >= len(line.raw)) or (line.progress and not line.raw))

    def has_bar(self, values: tuple[Any, ...]) -> bool:
        """Return whether a line is, or was, a progress state."""
        return values[1] is not None and values[1].bar is not None

    def ends_bar(self, values: tuple[Any, ...]) -> str | None:
        """Return how a line ends the progress state on display: "kept" as a line, or "dropped". None if it does not end it."""
        line = values[1]
        if line is None or line.bar is None or not (line.final or not line.raw):
            return None
        return "kept" if line.final and self.is_shown(values) else "dropped"

    def signature(self, values: tuple[Any, ...]) -> Hashable | None:
        """Return None: a captured line has no exception."""
        return None

    def build(self, values: tuple[Any, ...]) -> MeshRecord:
        """Return a new record."""
        when, line, text, _ = values
        fields = self.base.copy()
        fields.update(msg=text, created=when, msecs=when % 1 * 1000, relativeCreated=0.0)
        info = self.info
        if line is not None:
            written = raw_text(line.raw[line.shown :])
            partial = not line.final or line.shown > 0
            fields["msg"] = text_of(line.raw[line.shown :])  # the whole line; `text` may be cut
            info = info.but(raw=written, progress=line.progress, partial=partial, bar=line.bar, bar_ends=self.ends_bar(values))
        return MeshRecord.of(fields, info)


class CapturedPipe:
    """One captured stream of one process: takes bytes, returns items. `fd` is -1 after the stream has ended and was closed."""

    def __init__(self, fd: int, stream: str, *, base: Mapping[str, Any], identity: Mapping[str, Any], max_line: int) -> None:
        self.fd = fd
        self.stream = stream
        self.notable: list[Item] = []  # complete lines of level WARNING and above, until the owner empties it
        self.framer = CursorFramer()
        self._part = Part.NONE  # of the last line in a traceback
        self._max_line = max_line
        self._base = base
        self._info = MeshInfo(**identity, stream=stream)
        self._templates: dict[int, CapturedTemplate] = {}

    def items(self, lines: Sequence[Line | Block], when: float) -> list[Item]:
        """Return lines as items for the client."""
        items: list[Item] = []
        for each in lines:
            if isinstance(each, Line):
                items.append(self._item(each, when))
            else:
                items += self._plain(each.raw, when) or [self._item(line, when) for line in each.lines()]
        return items

    def _item(self, line: Line, when: float) -> Item:
        text = display(line.raw[line.shown :] if line.shown else line.raw, self._max_line)
        level = self._level(text)
        item = when, self._template(level), (when, line, text, mask_digits(text))
        if level >= logging.WARNING and line.final:
            self.notable.append(item)
        return item

    def _plain(self, raw: bytes, when: float) -> Iterable[Item] | None:
        """Return many lines as items without a Python loop, or None if the lines must be examined one by one."""
        if self._part or may_have_levels(raw):
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return None
        masked = mask_digits_of_lines(text)
        if len(max(masked, key=len)) > self._max_line:
            return None
        values = zip(repeat(when), repeat(None), text.split("\n"), masked, strict=False)
        return zip(repeat(when), repeat(self._template(logging.INFO)), values, strict=False)

    def _template(self, level: int) -> CapturedTemplate:
        template = self._templates.get(level)
        if template is None:
            template = self._templates[level] = CapturedTemplate(self._base, self._info, level)
        return template

    def _level(self, text: str) -> int:
        """Return the level of a line. All lines of a traceback or dump are errors, so that they are shown together."""
        if self._part:
            self._part = part_after(self._part, text)
            if Part.NONE < self._part < Part.GAP:
                return logging.ERROR
        level = level_of(text)
        if level >= logging.ERROR:
            self._part = part_after(Part.NONE, text)
        return level
