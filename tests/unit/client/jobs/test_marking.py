"""What an earlier client has shown is left out, and what is shown is noted record by record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.client.jobs.marking_dispatcher import MarkingDispatcher
from meshlog_handler.client.jobs.shown_files import ShownFiles
from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.journal.marking import MarkedDecoder
from meshlog_handler.journal.shown import ShownMark, position
from meshlog_handler.journal.side_files import ReadSideFiles
from meshlog_handler.protocol.decode import Item
from meshlog_handler.protocol.entries import FLUSH, number_entry
from tests.unit.crossing import encode, make

IDENTITY = {"rank": 0, "local_rank": 0, "hostname": "here", "coords": {}, "client": None}


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[ShownMark]:
    """The mark of a new journal."""
    made = ShownMark.create(str(tmp_path / "journal"), {})
    yield made
    made.close()


def decoded(mark: ShownMark, generation: int, limit: int = 100) -> list[Item]:
    """Decode a segment of five records with a sentinel among them, as a client with this mark does."""
    decoder = MarkedDecoder(IDENTITY, ReadSideFiles(mark.path), "owner", mark)
    data = encode([make("number %d", number) for number in range(5)])
    data += number_entry(FLUSH, 9)
    decoder.new_segment(generation)
    items: list[Item] = []
    at = 0
    while at < len(data):
        at = decoder.decode(data, at, limit, items)
    return items


def texts(items: list[Item]) -> list[str]:
    """Return the messages of the records."""
    return [template.text(values) for _, template, values in items if template is not None]


@given(shown=st.integers(0, 5), limit=st.integers(1, 6))
def test_shown_records_are_left_out_of_their_generation(
    shown: int, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mark = ShownMark.create(str(tmp_path_factory.mktemp("marks") / "journal"), {})
    mark.done(position(3, shown))
    items = decoded(mark, 3, limit)
    assert texts(items) == [f"number {number}" for number in range(shown, 5)]
    assert [item.at for item in items if item[1] is not None] == [position(3, n + 1) for n in range(shown, 5)]  # type: ignore[attr-defined]  # marked items
    assert items[-1][1:] == (None, ("owner", 9))
    assert texts(decoded(mark, 4, limit)) == [f"number {number}" for number in range(5)]
    mark.close()


class Handler(logging.Handler):
    """Notes the position of the mark during each record, and may fail."""

    def __init__(self, mark: ShownMark) -> None:
        super().__init__()
        self.mark = mark
        self.seen: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.seen.append((record.getMessage(), self.mark.shown, self.mark.in_doubt is not None))
        if len(self.seen) == 2:
            raise OSError("full")


def test_each_record_is_noted_before_and_after_the_handlers(mark: ShownMark, tmp_path: Path) -> None:
    handler = Handler(mark)
    files = ShownFiles(str(tmp_path / "files"))
    dispatcher = MarkingDispatcher(Sinks(Sink([handler])), files_shown=files)
    items = decoded(mark, 1)
    assert dispatcher.dispatch(items[:3], 0.0) == []
    assert handler.seen == [("number 0", (0, 0), True), ("number 1", (1, 1), True), ("number 2", (1, 2), True)]
    assert (mark.shown, mark.in_doubt) == ((1, 3), None)
    sentinels: list[Any] = dispatcher.dispatch(items[5:], 0.0)
    assert sentinels == [("owner", 9)]
    dispatcher.write_only(items[3:4])
    assert mark.shown == (1, 4)
    dispatcher.abandoned = True
    dispatcher.counted.set()
    dispatcher.dispatch(items[4:5], 0.0)
    assert mark.shown == (1, 4), "the next client shows it"
    files.close()
