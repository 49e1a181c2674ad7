"""How procs ended, in words. Pure: told of ends and exit codes, in whatever order they become known."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from .exits import signal_name
from .thaw import Item

WORD_SEC = 15.0
"""Seconds a proc's end waits for its owner to say how it came: Monarch looks every ten seconds."""


class Ended(Protocol):
    """What an obituary tells of."""

    rank: int | None
    pid: int
    mesh: str
    exitcode: int | None

    @property
    def tail(self) -> Iterable[Item]:
        """The last lines and records."""


class Obituaries:
    """Brings together that a proc has been heard to its end, and how it ended. One owner."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, int | None], tuple[float, Ended]] = {}
        self._words: dict[tuple[str, int | None], int] = {}

    def heard(self, ended: Ended, now: float) -> str:
        """Note that everything of a proc has been shown; return what to say of its end, "" if nothing, or not yet."""
        key = ended.mesh, ended.rank
        word = self._words.pop(key, None)
        if ended.exitcode is None:
            ended.exitcode = word
        if ended.exitcode is None:
            if ended.mesh:  # nobody will say anything of a guest
                self._heard[key] = now + WORD_SEC, ended
            return ""
        return _obituary(ended)

    def word(self, mesh: str, rank: int, exitcode: int) -> tuple[Ended, str] | None:
        """Note how a proc ended; return it and what to say, if it was heard to its end before."""
        _, ended = self._heard.pop((mesh, rank), (0.0, None))
        if ended is None:
            self._words[mesh, rank] = exitcode
            return None
        ended.exitcode = exitcode
        return ended, _obituary(ended)

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to forget, or None."""
        return min((deadline for deadline, _ in self._heard.values()), default=None)

    def expire(self, now: float) -> None:
        """Forget ends of which nobody knows more."""
        for key in [key for key, (deadline, _) in self._heard.items() if now >= deadline]:
            del self._heard[key]


def _obituary(ended: Ended) -> str:
    if ended.exitcode in (None, 0):
        return ""
    text = f"rank {ended.rank} (pid {ended.pid}) ended by {signal_name(ended.exitcode)}"
    lines = last_lines(ended.tail)
    return "\n    ".join((f"{text}; its last lines:", *lines)) if lines else text


def last_lines(tail: Iterable[Item]) -> list[str]:
    """Return the last lines of a proc as they were shown, tracebacks by their last line."""
    items = [(template, values) for _, template, values in tail if template is not None]
    newest = {template.base["stream"]: place for place, (template, _) in enumerate(items) if template.captured}
    # A state that was replaced, or grew into a line, is no line; the newest of a stream is what it said last.
    return [
        _spell(template.build(values))
        for place, (template, values) in enumerate(items)
        if not template.captured or template.line(values).final or newest[template.base["stream"]] == place
    ]


def _spell(record: Any) -> str:
    text = record.getMessage()
    if record.exc_text:
        text = f"{text}: {record.exc_text.rstrip().rpartition(chr(10))[2]}"
    return text if record.stream else f"{logging.getLevelName(record.levelno)} {record.name}: {text}"
