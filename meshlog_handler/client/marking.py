"""Notes for each record of a job that it was shown, so that the next client of the job continues there. Client thread only.

::

    MarkedDecoder -> MarkedItem (its mark and position) -> MarkingDispatcher: begin, the handlers, done
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..dispatch.dispatcher import Dispatcher
from ..dispatch.wrapped_handlers import behind
from ..journal.shown import ShownMark, position
from ..journal.side_files import ReadSideFiles
from ..protocol.decode import Item, RecordDecoder
from .shown_files import ShownFiles

if TYPE_CHECKING:
    from .peer import Peer


class MarkedItem(tuple[Any, ...]):
    """An item with the mark of its journal and its position there. `side` is the number of its side file, if it has one."""

    mark: ShownMark
    at: int
    side: int | None
    sides: ReadSideFiles

    def done(self) -> None:
        """Note that it was shown."""
        self.mark.done(self.at)
        if self.side is not None:
            self.sides.remove(self.side)


class MarkedDecoder(RecordDecoder):
    """Decodes the stream of a process of a job. It leaves out what was shown, and gives each record a mark."""

    def __init__(self, identity: Mapping[str, object], sides: ReadSideFiles, owner: object, mark: ShownMark) -> None:
        super().__init__(identity, self._peek, owner)
        self._sides = sides
        self._side: dict[int, int] = {}  # the numbers of side files, by the index of their records
        self._mark = mark
        self._shown = mark.shown
        self._generation = self._records = 0
        self._within = False
        self._items: list[Item] = []

    def new_segment(self, generation: int = 0) -> None:
        """Begin with another segment."""
        super().new_segment(generation)
        self._generation, self._records = generation, 0

    def decode(self, data: bytes, at: int, limit: int, items: list[Item]) -> int:
        """Append the items of records that were not shown yet."""
        if self._within:  # the entries in a side file are one record
            return super().decode(data, at, limit, items)
        before = len(items)
        self._within, self._items = True, items
        self._side.clear()
        try:
            return super().decode(data, at, limit, items)
        finally:
            self._within = False
            items[before:] = self._marked(items[before:], before)

    def _peek(self, number: int) -> bytes:
        self._side[len(self._items)] = number
        return self._sides.peek(number)

    def _marked(self, items: list[Item], before: int) -> list[Item]:
        found: list[Any] = []
        generation, shown = self._shown
        for index, item in enumerate(items, before):
            if item[1] is None:
                found.append(item)
                continue
            self._records += 1
            if self._generation == generation and self._records <= shown:
                continue
            marked = MarkedItem(item)
            marked.mark, marked.at = self._mark, position(self._generation, self._records)
            marked.sides, marked.side = self._sides, self._side.get(index)
            found.append(marked)
        return found


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
