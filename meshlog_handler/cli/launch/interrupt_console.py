"""CollapsingConsole: shows one KeyboardInterrupt for all ranks, since every rank prints the same one after a Ctrl-C."""

from __future__ import annotations

import copy
import logging
from typing import Any, Final

from ...grouping.tracebacks import HEAD, LINKS
from ...output.console import ConsoleHandler
from ...protocol.record import info_of

_HEADS: Final = (HEAD, "Exception ignored in", "Exception in thread ")
_INTERRUPT: Final = "KeyboardInterrupt"
_MAX_HELD: Final = 1000


class CollapsingConsole(ConsoleHandler):
    """If `folding` is set, omits all tracebacks of KeyboardInterrupt except for the first. `folded` has their ranks.

    A captured traceback is held until its last line arrives. Other tracebacks are therefore shown in one piece. `close` shows
    held lines. Any thread may set `folding`.
    """

    max_pending = 4 * 1024  # so that `LocalRun` sees the progress of a slow reader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folding = False
        self.folded: set[int] = set()
        self._first: tuple[int, ...] | None = None
        self._held: dict[tuple[Any, Any], list[logging.LogRecord]] = {}
        self._after: set[tuple[Any, Any]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, or hold it until its traceback is complete."""
        if not self.folding:
            super().emit(record)
        elif info_of(record).stream is None:
            self._emit_logged(record)
        else:
            self._emit_captured(record)

    def close(self) -> None:
        """Show held lines, and close."""
        self.acquire()
        try:
            for key in tuple(self._held):
                self._release(key)
        finally:
            self.release()
        super().close()

    def _emit_logged(self, record: logging.LogRecord) -> None:
        text = record.exc_text
        if text and text.rstrip().rpartition("\n")[2].startswith(_INTERRUPT) and not self._is_first(record):
            record = copy.copy(record)
            record.exc_text = record.exc_info = None
        super().emit(record)

    def _emit_captured(self, record: logging.LogRecord) -> None:
        info = info_of(record)
        key = info.rank, info.stream
        text = record.getMessage()
        held = self._held.get(key)
        if held is None:
            if key in self._after and (not text.strip() or text.startswith(LINKS)):
                return  # the text between chained tracebacks
            self._after.discard(key)
            _, more, last = text.rpartition("\n")
            if text.startswith(_HEADS) and not more:
                self._held[key] = [record]
            elif not (more and last.startswith(_INTERRUPT)) or self._is_first(record):  # else a group has held it
                super().emit(record)
            return
        held.append(record)
        if text.startswith(_INTERRUPT):
            if self._is_first(record):
                self._release(key)
            self._held.pop(key, None)
            self._after.add(key)
        elif len(held) >= _MAX_HELD or (text and not text[0].isspace() and not text.startswith(_HEADS)):
            self._release(key)

    def _is_first(self, record: logging.LogRecord) -> bool:
        info = info_of(record)
        ranks = info.ranks or (() if info.rank is None else (info.rank,))
        if self._first is None:
            self._first = ranks
            return True
        self.folded.update(set(ranks).difference(self._first))
        return False

    def _release(self, key: tuple[Any, Any]) -> None:
        for record in self._held.pop(key, ()):
            super().emit(record)
