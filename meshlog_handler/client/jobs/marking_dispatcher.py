"""Notes for each record of a job that it was shown (see `marking`). Client thread only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...dispatch.dispatcher import Dispatcher
from ...dispatch.wrapped_handlers import behind
from ...journal.marking import MarkedItem
from ...protocol.decode import Item
from .shown_files import ShownFiles

if TYPE_CHECKING:
    from ..peers.peer import Peer


class MarkingDispatcher(Dispatcher):
    """Notes before and after each record of a job what was shown of its journal.

    Records that are grouped count as shown when they are added to their group.
    """

    def __init__(self, *args: Any, files_shown: ShownFiles, **options: Any) -> None:
        super().__init__(*args, **options)
        self._files_shown = files_shown

    def dispatch(self, items: Iterable[Item], now: float) -> list[tuple[Peer, int]]:
        """Show items one at a time."""
        sentinels: list[tuple[Peer, int]] = []
        for item in items:
            with self._noting(item):
                sentinels += super().dispatch((item,), now)
        return sentinels

    def write_only(self, items: Iterable[Item]) -> list[tuple[Peer, int]]:
        """Write items to the files one at a time."""
        sentinels: list[tuple[Peer, int]] = []
        for item in items:
            with self._noting(item):
                sentinels += super().write_only((item,))
        return sentinels

    def count(self, items: list[Item], now: float) -> list[Item]:
        """Return all items: each is dispatched, so that it is noted."""
        return items

    @contextlib.contextmanager
    def _noting(self, item: Item) -> Iterator[None]:
        if not isinstance(item, MarkedItem) or self.abandoned:
            yield
            return
        template: Any = item[1]
        handlers = [
            behind(handler)
            for sink in self._sinks_of(template)
            for handler in sink.handlers
            if not sink.respect_handler_level or template.levelno >= handler.level
        ]
        files = self._files_shown.of(handlers)
        self._files_shown.note(files)
        item.mark.begin(item.at, files)
        try:
            yield
        finally:
            if not self.abandoned:  # else it was not shown
                if any(getattr(handler, "flush_per_tick", False) for handler in handlers):
                    self.end_tick()
                item.done()
