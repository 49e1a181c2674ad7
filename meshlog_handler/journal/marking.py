"""Records of a job, each with the mark that notes that it was shown: the next client of the job continues there.

Client thread only.

::

    MarkedDecoder -> MarkedItem (its mark and position) -> MarkingDispatcher: begin, the handlers, done
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocol.decode import Item, RecordDecoder
from .shown import ShownMark, position
from .side_files import ReadSideFiles


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
