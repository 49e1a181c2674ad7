"""The captured output of one proc as items for the client: lines with a level, in place of records. Pure, but for its `fd`."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from .lines import Line, LineFramer, display, level_of, raw_text
from .mesh_record import MeshRecord
from .thaw import Item


class CapturedTemplate:
    """The captured lines of one proc, stream and level. Values: ``(when, line, text)``."""

    __slots__ = ("base", "group", "levelno", "rank", "scope")
    captured = True
    ordinary = False

    def __init__(self, base: Mapping[str, Any], stream: str, level: int) -> None:
        name = logging.getLevelName(level)
        self.base = {**base, "name": stream, "stream": stream, "levelno": level, "levelname": name}
        self.rank: int | None = base["rank"]
        self.levelno = level
        self.group: Hashable | None = None
        self.scope: Hashable = (stream, level)

    def args(self, values: tuple[Any, ...]) -> tuple[object, ...]:
        """Return nothing: a captured line has no arguments."""
        return ()

    def text(self, values: tuple[Any, ...]) -> str:
        """Return the line as it is displayed."""
        text: str = values[2]
        return text

    def signature(self, values: tuple[Any, ...]) -> Hashable | None:
        """Return None: a captured line is no exception."""
        return None

    def build(self, values: tuple[Any, ...]) -> logging.LogRecord:
        """Return a new record."""
        when, line, text = values
        record = MeshRecord.__new__(MeshRecord)
        fields = self.base.copy()
        fields.update(
            msg=text, created=when, msecs=when % 1 * 1000, relativeCreated=0.0, raw_text=raw_text(line.raw[line.shown :]),
            progress=line.progress, partial=not line.final or line.shown > 0,
        )  # fmt: skip
        record.__dict__ = fields
        return record


class CapturedPipe:
    """One captured stream of one proc: bytes in, items out. Its `fd` is -1 when it has ended and was closed."""

    def __init__(self, fd: int, stream: str, base: Mapping[str, Any], max_line: int) -> None:
        self.fd = fd
        self.stream = stream
        self.framer = LineFramer()
        self._in_traceback = False
        self._max_line = max_line
        self._base = base
        self._templates: dict[int, CapturedTemplate] = {}

    def items(self, lines: list[Line], when: float) -> list[Item]:
        """Return lines as items for the client."""
        items: list[Item] = []
        templates = self._templates
        for line in lines:
            text = display(line.raw[line.shown :] if line.shown else line.raw, self._max_line)
            level = self._level(text)
            template = templates.get(level)
            if template is None:
                template = templates[level] = CapturedTemplate(self._base, self.stream, level)
            items.append((when, template, (when, line, text)))
        return items

    def _level(self, text: str) -> int:
        """Return the level of a line; all lines of a traceback are errors, so that they are shown together."""
        if self._in_traceback:
            self._in_traceback = text.startswith(" ")
            return logging.ERROR
        level = level_of(text)
        self._in_traceback = level == logging.ERROR and text.startswith("Traceback ")
        return level
