"""The memory that kept records take is bounded in bytes, even for large records."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlog_handler.client.peers.peer import Peer, Piece
from meshlog_handler.client.peers.tail import Tail, last_lines
from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.grouping.sizes import size_of, within
from meshlog_handler.journal.layout import START
from meshlog_handler.lines.captured import CapturedTemplate
from meshlog_handler.lines.framer import Line
from meshlog_handler.protocol.decode import Item
from meshlog_handler.protocol.entries import LARGE, number_entry
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.record import info_of

from ...crossing import decode, encode, make

LONG = 200_000


def text(number: int, size: int = LONG) -> str:
    """Return a text that is not similar to any other."""
    first, second = (chr(ord("g") + digit) for digit in divmod(number, 20))
    return first * (size // 2) + second * (size // 2)


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Returns the peak of the memory allocated since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def fed(records: Iterator[logging.LogRecord], digests: bool = False) -> tuple[int, list[logging.LogRecord]]:
    """Add records to an aggregator as a client does; return how many, and the shown records."""
    aggregator = Aggregator(10.0, digests=digests)
    shown: list[logging.LogRecord] = []
    count = 0
    for record in records:
        data = encode([record])
        ((_, template, values),) = decode(data)
        shown += aggregator.add(template, values, 0.0)
        shown += aggregator.took(len(data))
        count += 1
        assert aggregator.received == aggregator.shown + aggregator.pending == count
    shown += aggregator.flush()
    assert aggregator.pending == 0
    return count, shown


KINDS: dict[str, Callable[[int], logging.LogRecord]] = {
    "texts": lambda number: make(text(number)),
    "warnings": lambda number: make(text(number), levelno=40),
    "arguments of a template each": lambda number: make(f"{text(number, 30)} got %s", text(number)),
    "long templates": lambda number: make(f"{text(number)} got %s", 1),
    "tracebacks": lambda number: make(text(number, 30), exc_text=text(number), extra=text(number)),
    "arguments by name": lambda number: make("got %(a)s", {"a": text(number)}),
    "numbers": lambda number: make(f"{text(number, 30)} {'1 2 3 4 5 ' * 600}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_long_lines_are_shown_early(kind: str, traced: Callable[[], int]) -> None:
    lengths: list[int] = []
    aggregator = Aggregator(10.0)
    count = 30 if kind == "numbers" else 300
    for number in range(count):
        record = KINDS[kind](number)
        data = encode([record])
        ((_, template, values),) = decode(data)
        for each in (*aggregator.add(template, values, 0.0), *aggregator.took(len(data))):
            lengths.append(len(each.getMessage()))
        del record, data, template, values
    assert traced() < 80 << 20  # twice the 32 MiB that groups may hold, and a record in each of its forms
    assert aggregator.pending < count or kind == "numbers"
    lengths += [len(each.getMessage()) for each in aggregator.flush()]
    assert len(lengths) == count
    assert aggregator.shown == count


@pytest.mark.parametrize("digests", [False, True])
def test_arguments_of_one_template_take_little_memory(digests: bool, traced: Callable[[], int]) -> None:
    """Small arguments come first, so the aggregator expects no large ones."""
    records = (
        make("got %s and %s", text(number, 500_000), number) if number > 70 else make("got %s and %s", "x", number)
        for number in range(170)
    )
    count, (only,) = fed(iter(records), digests)
    assert traced() < 40 << 20
    assert info_of(only).count == count
    assert info_of(only).ranks == (3,)
    digest = info_of(only).digest
    assert (digest is not None) == digests
    if digest is not None:
        assert size_of(digest[1]) < 3 << 20


def peer_at(path: Path) -> Peer:
    """Return a peer with its journal at `path`."""
    hello = Hello(os.getpid(), "node", 0, 0, "", (), True, 0.0)
    return Peer(None, hello, rank=0, journal=str(path), pipes={}, coords={}, max_line=1000, process=os.getpid())


def test_the_size_of_one_collection_is_bounded(tmp_path: Path) -> None:
    """At most this much waits for handlers that block."""
    peer = peer_at(tmp_path / "journal")
    for number in range(1, 51):
        (tmp_path / f"journal.{number}").write_bytes(encode([make(text(number, 100_000))]))
    data = b"".join(number_entry(LARGE, number) for number in range(1, 51))
    peer.inbox.append(Piece(1, START, data, replayed=False))
    items: list[Item] = []
    assert peer.take(1000, items) >= 1000
    assert len(items) == 11
    assert len(os.listdir(tmp_path)) == 39
    while peer.inbox:
        peer.take(1000, items)
    assert [template.text(values) for _, template, values in items] == [text(number, 100_000) for number in range(1, 51)]


def test_references_to_files_that_do_not_exist_take_little_memory(tmp_path: Path, traced: Callable[[], int]) -> None:
    peer = peer_at(tmp_path / "journal")
    data = b"".join(number_entry(LARGE, number) for number in range(1, 3001))
    peer.inbox.append(Piece(1, START, data, replayed=False))
    most = count = 0
    while peer.inbox:
        items: list[Item] = []
        peer.take(100, items)
        most, count = max(most, len(items)), count + len(items)
    assert (most, count) == (100, 3000), "one item for each lost record"
    assert traced() < 4 << 20


def test_the_last_records_of_a_worker_take_little_memory(tmp_path: Path) -> None:
    peer = peer_at(tmp_path / "journal")
    captured = CapturedTemplate(logging.makeLogRecord({}).__dict__, info_of(make()).but(stream="stdout"), 20)
    items: list[Item] = []
    for number in range(20):
        items += decode(encode([make(text(number, 1_000_000))]))
        items += decode(encode([make("got %s", text(number, 1_000_000), exc_text="t" * 1_000_000)]))
        items.append((0.0, captured, (0.0, Line(b"x" * 1_000_000, True, False, 0), "x" * 1000, b"")))
        peer.tail.add(items)
        items.clear()
    assert len(list(peer.tail)) == 20
    assert len(last_lines(peer.tail)) == 20
    assert all(len(line) < 3000 for line in last_lines(peer.tail))
    peer.tail = Tail()
    peer.tail.add(decode(encode([make("short"), make(text(1, 10_000)), make("got %s", 1)])))
    first, second, third = last_lines(peer.tail)
    assert (first, third) == ("INFO app.part: short", "INFO app.part: got 1")
    assert second.startswith("INFO app.part: ggggggg")
    assert second.endswith("more characters]")


def test_sizes_of_data_are_estimated_and_limited() -> None:
    assert 1000 < size_of("x" * 1000) < 1100
    assert 4000 < size_of(["x" * 1000, {"y" * 1000: (b"z" * 1000, "\u20ac" * 1000)}]) < 6000
    assert size_of(object()) > 0
    assert within(["x" * 100] * 10, 500) == ["x" * 100] * 3
    assert within(["x" * 1000], 10) == ["x" * 1000]
    assert within([], 10) == []
