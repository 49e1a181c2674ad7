"""How far a journal was shown: the mark outlives its writer, and the journal keeps its entries until then."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.journal.shown import MAX_STATES, ShownMark, ShownReader, position, shown_path
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.entries import RECORD, number_entry

ENTRY = number_entry(RECORD, 7)


def test_the_mark_is_found_by_the_next_client(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    mark = ShownMark.create(journal, {"rank": 3})
    mark.table = "/a table"
    mark.begin(position(2, 5), files=0b11, states=b"grown")
    later = ShownMark.open(journal)
    assert (later.shown, later.about(), later.table) == ((0, 0), {"rank": 3}, "/a table")
    assert later.in_doubt == (0b11, b"grown".ljust(MAX_STATES, b"\0"))
    mark.done(position(2, 5))
    assert later.shown == (2, 5)
    assert later.in_doubt is None
    for each in (mark, later):
        each.close()


@pytest.mark.parametrize(("written", "shown"), [(True, (2, 6)), (False, (2, 5))])
def test_a_record_in_doubt_is_settled(written: bool, shown: tuple[int, int], tmp_path: Path) -> None:
    mark = ShownMark.create(str(tmp_path / "journal"), {})
    mark.done(position(2, 5))
    mark.begin(position(2, 6), files=1)
    mark.settle(written=written)
    assert (mark.shown, mark.in_doubt) == (shown, None)
    mark.close()


@pytest.mark.parametrize("content", [b"", b"short", bytes(1 << 20)])
def test_another_file_is_not_a_mark(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Path(shown_path(str(path))).write_bytes(content)
    with pytest.raises(ProtocolError):
        ShownMark.open(str(path))


def test_a_journal_keeps_its_entries_until_they_were_shown(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    mark = ShownMark.create(path, {})
    journal = Journal(path, 64 * 1024)
    journal.keep_until_shown(ShownReader(path))
    written = 0

    def fill() -> int:
        """Append until the journal is full, and ship everything; return the number of entries."""
        count = 0
        while True:
            try:
                journal.appender[1](ENTRY)
                count += 1
            except ValueError:
                if not journal.rotate(journal.appender, overwrite=False):
                    return count
            while (piece := journal.unshipped(1 << 20)) is not None:
                journal.shipped(piece)

    written = fill()
    assert written > 8
    assert fill() == 0, "all of it is shipped, and nothing was shown"
    mark.done(position(3, 1))
    more = fill()
    assert 0 < more < written, "two segments were shown"
    assert next(piece.generation for piece in JournalReader(path).ranges()) == 3
    journal.rewind(0)
    again = journal.unshipped(1 << 20)
    assert again is not None
    assert again.generation == 3
    journal.close()
    mark.close()


def test_a_removed_or_truncated_mark_shows_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    mark = ShownMark.create(path, {})
    mark.done(position(4, 1))
    reader = ShownReader(path)
    assert reader() == 4
    Path(shown_path(path)).write_bytes(b"")
    assert reader() == 0
    assert mark.shown == (0, 0), "and its client goes on"
    with pytest.raises(ProtocolError):
        mark.about()
    with pytest.raises(ProtocolError, match="truncated"):
        ShownMark.open(path)
    mark.begin(position(5, 1), files=0)
    mark.done(position(5, 1))
    assert (reader(), mark.shown, mark.in_doubt) == (5, (5, 1), None)
    reader.close()
    mark.close()
