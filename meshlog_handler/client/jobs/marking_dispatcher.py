"""Notes for each record of a job that it was shown (see `marking`). Client thread only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ...dispatch.dispatcher import Dispatcher, Sentinel
from ...dispatch.wrapped_handlers import behind
from ...journal.marking import MarkedItem
from ...output.console import show_kept
from ...protocol.decode import Item
from ...system.error_reports import ErrorReports
from ...system.waits import capped
from .shown_files import ShownFiles


class MarkingDispatcher(Dispatcher):
    """Notes before and after each record of a job what was shown of its journal.

    Records that are grouped count as shown when they are added to their group.
    """

    def __init__(self, *args: Any, files_shown: ShownFiles, **options: Any) -> None:
        super().__init__(*args, **options)
        self._files_shown = files_shown
        self._failures = ErrorReports()
        self._showing = threading.RLock()  # held from the note before a record to the note after it
        self._awaited = False  # whether the next client waits for that note

    def dispatch(self, items: Iterable[Item], now: float) -> list[Sentinel]:
        """Show items one at a time."""
        return self._each(items, lambda item: super(MarkingDispatcher, self).dispatch((item,), now))

    def write_only(self, items: Iterable[Item]) -> list[Sentinel]:
        """Write items to the files one at a time."""
        return self._each(items, lambda item: super(MarkingDispatcher, self).write_only((item,)))

    def count(self, items: list[Item], now: float) -> list[Item]:
        """Return all items: each is dispatched, so that it is noted."""
        return items

    def _each(self, items: Iterable[Item], show: Callable[[Item], list[Sentinel]]) -> list[Sentinel]:
        sentinels: list[Sentinel] = []
        for item in items:
            if isinstance(item, MarkedItem):
                with self._showing:
                    sentinels += self._show_marked(item, show)
            else:
                sentinels += show(item)
        return sentinels

    def _show_marked(self, item: MarkedItem, show: Callable[[Item], list[Sentinel]]) -> list[Sentinel]:
        if self.abandoned:
            return show(item)
        files, per_tick = self._handled(item)
        self._note(item, partial(item.mark.begin, item.at, files, self._files_shown.states(files)))
        withheld = self._withheld
        try:
            return show(item)
        finally:
            if not self.abandoned or (self._awaited and self._withheld == withheld):
                if per_tick:
                    self.end_tick()
                    show_kept()  # what is noted as shown has to be written
                self._note(item, item.done)

    def abandon(self, seconds: float) -> None:
        """Do as `Dispatcher.abandon`. A record that a handler has got is noted, unless the handler does not return in time."""
        self._awaited = True
        super().abandon(seconds)
        if self._showing.acquire(timeout=capped(seconds)):
            self._showing.release()
        else:
            self._awaited = False  # the next client shows the record again, and it alone writes the marks from now on

    def _handled(self, item: MarkedItem) -> tuple[int, bool]:
        """Return the files of the handlers that get an item, and whether one of these writes at the end of a tick."""
        files, per_tick = 0, False
        template: Any = item[1]
        for sink in self._sinks_of(template):
            for given_to in sink.handlers:
                if not sink.respect_handler_level or template.levelno >= given_to.level:
                    handler = behind(given_to)
                    if isinstance(handler, logging.FileHandler):
                        files |= self._files_shown.bit(handler.baseFilename)
                    per_tick = per_tick or getattr(handler, "flush_per_tick", False)
        return files, per_tick

    def _note(self, item: MarkedItem, note: Callable[[], object]) -> None:
        try:
            note()
        except OSError as failure:  # another process has truncated the file, and the disk is full; or it was removed
            what = f"if this process is killed, records are shown twice, because {item.mark.path} cannot be written"
            self._failures.log(what, failure)
