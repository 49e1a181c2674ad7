"""What has no room in a segment, flush sentinels, and journals that are mere memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler import stream
from meshlog_handler.forwarder import LogForwarder
from meshlog_handler.freeze import Frozen, ShapeTable
from meshlog_handler.journal_reader import JournalReader
from meshlog_handler.thaw import Thawer

from ..waiting import until
from .crossing import IDENTITY, no_side_file
from .one_proc import PADDING, Proc, in_thread, joined


def side_files(proc: Proc) -> list[str]:
    """The numbers of the side files there are."""
    path = Path(str(proc.stream.journal.path))
    return sorted(name.rpartition(".")[2] for name in os.listdir(path.parent) if name.startswith(f"{path.name}."))


def sentinels(proc: Proc) -> list[tuple[int, int]]:
    """The flushes that arrived, each with the number of records before it."""
    found = []
    records = 0
    for _, template, values in proc.items:
        records += template is not None
        if template is None:
            found.append((values[1], records))
    return found


@pytest.mark.parametrize("size", [4_000, 4_060, 4_096, 5_000, 1_100_000, 10_000_000])
def test_a_record_of_any_size_arrives_in_its_place(proc: Proc, size: int) -> None:
    proc.log("before")
    proc.log("y" * size)
    proc.log("%s", "z" * size)
    proc.log("after")
    proc.ship()
    assert proc.texts == ["before", "y" * size, "z" * size, "after"]


def test_a_side_file_that_a_full_segment_made_useless_is_removed(proc: Proc) -> None:
    fill_up(proc)
    proc.ship()
    proc.log("y" * 5000)  # its number has no room in the segment
    proc.ship()
    assert proc.texts[-1] == "y" * 5000
    assert side_files(proc) == list(map(str, proc.large))
    assert len(proc.large) == 1


def test_a_side_file_that_a_full_segment_made_useless_may_be_gone(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was stopped takes the directory of the journals with it."""
    fill_up(proc)
    proc.ship()
    set_aside = proc.stream._set_aside

    def and_gone(frozen: Frozen, shapes: ShapeTable) -> tuple[Frozen, str]:
        frozen, path = set_aside(frozen, shapes)
        if len(side_files(proc)) == 1 and not proc.large:
            os.unlink(path)
            monkeypatch.undo()
        return frozen, path

    monkeypatch.setattr(proc.stream, "_set_aside", and_gone)
    proc.log("y" * 5000)  # its number has no room in the segment
    proc.ship()
    assert proc.texts[-1] == "y" * 5000


def test_who_waits_for_room_is_told_of_it_before_more_is_sent(proc: Proc) -> None:
    """A segment can be shipped to its end before it has a successor: that it is free shows only later."""
    locked: list[bool] = []
    waiter = proc.stream._begin_to_wait()
    link: Any = SimpleNamespace(send_data=lambda _: locked.append(waiter.locked()), intact=True)
    forwarder = LogForwarder(link)
    forwarder.attach(proc.stream)
    while proc.stream.journal._latest().map.tell() < 3850:  # the next one does not fit
        proc.log("%d %s", 0, PADDING)
    forwarder.ship()
    assert not proc.stream.journal._latest().successor
    proc.stream._end_waits()
    waiter = proc.stream._begin_to_wait()
    locked.clear()
    proc.fill()
    forwarder.ship()
    assert locked[0] is False


def test_large_records_of_many_threads_have_files_of_their_own(proc: Proc) -> None:
    def log(name: int) -> None:
        for number in range(10):
            proc.log("%d %d %s", name, number, "y" * 5000)

    threads = [in_thread(lambda name=name: log(name)) for name in range(4)]  # type: ignore[misc]  # a default binds it
    while any(thread.is_alive() for thread in threads):
        proc.ship()
    assert all(map(joined, threads))
    proc.ship()
    assert len({tuple(text.split()[:2]) for text in proc.texts}) == len(proc.texts) == 40


@pytest.mark.parametrize("file", [True, False])
def test_without_room_for_a_side_file_the_beginning_is_shown(procs: Callable[..., Proc], said: list[str], file: bool) -> None:
    proc = procs("drop", file=file)
    if file:
        proc.stream.journal.path = "/no/such/directory/journal"
    proc.log("before")
    proc.log("y" * 10_000, levelno=20)
    proc.log("\0\u20ac" * 10_000)
    proc.log("after")
    proc.ship()
    before, *cut, after = proc.texts
    assert (before, after) == ("before", "after")
    assert all("bytes was cut: no room" in text for text in cut)
    assert len(cut) == 2
    assert "yyyy" in cut[0]
    assert bool(said) == file
    assert not proc.drops


def test_a_flight_recorder_keeps_few_side_files_and_never_stops(proc: Proc, said: list[str]) -> None:
    proc.stream.lose_client()
    for number in range(100):
        proc.log("%d %s", number, "y" * 5000)
    assert len(side_files(proc)) <= 16
    proc.items.clear()


def test_a_sentinel_arrives_behind_what_was_logged_before(proc: Proc) -> None:
    for number in range(200):
        proc.log("%d %s", number, PADDING)
        proc.stream.append_flush(number)
        if number % 20 == 0:
            proc.ship()
    proc.ship()
    assert sentinels(proc) == [(number, number + 1) for number in range(200)]


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_a_sentinel_without_room_keeps_nobody_waiting(procs: Callable[..., Proc], on_full: stream.OnFull) -> None:
    proc = procs(on_full)
    count = fill_up(proc)
    proc.stream.append_flush(7)
    proc.stream.append_flush(8)
    proc.ship()
    assert sentinels(proc) == [(7, count), (8, count)]
    assert not proc.drops


def test_a_sentinel_that_was_put_off_comes_with_the_next_segment(proc: Proc) -> None:
    count = fill_up(proc)
    proc.stream.append_flush(7)
    piece = proc.stream.journal.unshipped(1 << 20)
    assert piece is not None
    assert proc.stream.journal.shipped(piece)
    proc.log("next")
    proc.items.clear()
    for piece in JournalReader(str(proc.stream.journal.path)).ranges():
        Thawer(IDENTITY, no_side_file).thaw(piece.data, 0, 1 << 30, proc.items)
    assert [version for version, _ in sentinels(proc)] == [7]
    assert proc.texts[-1] == "next"
    assert len(proc.texts) <= count
    assert not proc.drops


def fill_up(proc: Proc) -> int:
    """Leave no room for even the smallest entry; return the number of records."""
    count = proc.fill()
    while stream._put(proc.stream.journal.appender, b"\xa5"):
        continue
    return count


def test_in_mere_memory_a_record_is_shipped_before_the_call_returns(procs: Callable[..., Proc]) -> None:
    proc = procs(file=False)
    thread = in_thread(lambda: proc.log("hello"))
    until(lambda: proc.woken)
    assert thread.is_alive()
    while thread.is_alive():
        proc.ship()
    assert joined(thread)
    assert proc.texts == ["hello"]


def test_in_mere_memory_nobody_waits_who_need_not(procs: Callable[..., Proc], monkeypatch: pytest.MonkeyPatch) -> None:
    dropping = procs("drop", file=False)
    dropping.log("hello")
    lost = procs(file=False)
    thread = in_thread(lambda: lost.log("hello"))
    until(lambda: lost.woken)
    lost.stream.lose_client()
    assert joined(thread)
    lost.log("hello again")
    monkeypatch.setattr(stream, "BLOCK_SEC", 0.01)
    starved = procs(file=False)
    starved.log("first")
    monkeypatch.setattr(stream, "BLOCK_SEC", 60)
    starved.log("second")
    starved.ship()
    assert starved.texts == ["first", "second"]


def test_in_mere_memory_all_takes_the_path_that_waits(procs: Callable[..., Proc]) -> None:
    proc = procs("drop", file=False)
    proc.log("hello")
    proc.log("hello")
    assert not proc.stream.appender[0]
    assert not stream._put(proc.stream.appender, b"x")
