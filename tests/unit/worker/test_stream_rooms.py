"""Records too large for a segment, flush sentinels, and journals in memory."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal import side_files as side_files_module
from meshlog_handler.journal.layout import Range
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.protocol.decode import RecordDecoder
from meshlog_handler.protocol.entries import FLUSH, walk
from meshlog_handler.worker import record_stream
from meshlog_handler.worker.forwarder import LogForwarder

from ...waiting import until
from ..crossing import IDENTITY, no_side_file
from ..one_proc import PADDING, Proc, in_thread, joined


def side_files(proc: Proc) -> list[str]:
    """Return the numbers of the existing side files."""
    path = Path(str(proc.stream.journal.path))
    return sorted(name.rpartition(".")[2] for name in os.listdir(path.parent) if name.startswith(f"{path.name}."))


def sentinels(proc: Proc) -> list[tuple[int, int]]:
    """Return the flushes that arrived, each with the number of records before it."""
    found = []
    records = 0
    for _, template, values in proc.items:
        records += template is not None
        if template is None:
            found.append((values[1], records))
    return found


@pytest.mark.parametrize("size", [4_000, 4_060, 4_096, 5_000, 1_100_000, 10_000_000])
def test_a_record_of_any_size_arrives_in_order(proc: Proc, size: int) -> None:
    proc.log("before")
    proc.log("y" * size)
    proc.ship()
    proc.log("%s", "z" * size)
    proc.log("after")
    proc.ship()
    assert proc.texts == ["before", "y" * size, "z" * size, "after"]


@pytest.mark.parametrize("gone", [False, True])
def test_a_side_file_is_removed_if_its_entry_does_not_fit_into_the_segment(
    proc: Proc, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a client that was stopped has already removed the file with its directory."""
    fill_up(proc)
    proc.ship()
    take_back = proc.stream._sides.take_back  # type: ignore[union-attr]  # the journal is a file
    unused: list[int] = []

    def take(number: int) -> None:
        unused.append(number)
        if gone:
            os.unlink(f"{proc.stream.journal.path}.{number}")
        take_back(number)

    monkeypatch.setattr(proc.stream._sides, "take_back", take)
    proc.log("y" * 5000)  # the entry with its number does not fit
    assert unused == [1]
    assert side_files(proc) == ["2"]
    proc.ship()
    assert proc.texts[-1] == "y" * 5000
    assert proc.large == [2]


def test_a_side_file_is_removed_after_it_is_read(proc: Proc) -> None:
    for number in range(100):
        proc.log("%d %s", number, "y" * 5000)
        if number % 10 == 9:
            assert len(side_files(proc)) == 10
            proc.ship()
            assert side_files(proc) == []
    assert [text.split()[0] for text in proc.texts] == list(map(str, range(100)))


@pytest.mark.parametrize(("size", "count"), [(5_000, 16), (50_000, 2), (1_000_000, 1)])
def test_a_call_waits_while_there_are_too_many_side_files(proc: Proc, size: int, count: int) -> None:
    def log() -> None:
        for number in range(40):
            proc.log("%d %s", number, "y" * size)

    thread = in_thread(log)
    most = 0
    while thread.is_alive():
        most = max(most, len(side_files(proc)))
        proc.ship()
    assert joined(thread)
    proc.ship()
    assert [text.split()[0] for text in proc.texts] == list(map(str, range(40)))
    assert most <= count
    assert not proc.drops


def test_a_call_waits_for_side_files_no_longer_than_the_limit(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 0.01)
    for number in range(20):
        proc.log("%d %s", number, "y" * 5000)
    assert proc.drops == [("full", 20, 4)]
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 60)
    proc.log("z" * 5000)
    assert proc.drops == [("full", 20, 5)]
    proc.ship()
    proc.log("z" * 5000)
    proc.ship()
    assert proc.texts[-1] == "z" * 5000


def test_the_policy_drop_counts_records_without_room_for_a_side_file(procs: Callable[..., Proc]) -> None:
    proc = procs("drop")
    for number in range(20):
        proc.log("%d %s", number, "y" * 5000)
    assert proc.drops == [("policy", 20, 4)]
    proc.ship()
    assert len(proc.texts) == 16


def test_a_call_waits_while_the_disk_is_full_for_a_short_time(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Other processes may make room on the disk. If it stays full, only the first call waits."""
    full = [True] * 3

    def opened(*args: Any, **options: Any) -> Any:
        if full and full.pop():
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(*args, **options)

    monkeypatch.setattr(side_files_module, "open", opened, raising=False)
    proc.log("y" * 5000)
    proc.ship()
    assert proc.texts == ["y" * 5000]
    assert said == []
    now = [100.0]
    monkeypatch.setattr(side_files_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    full = [True] * 1000
    proc.log("y" * 5000)
    left = len(full)
    assert now[0] > 109
    proc.log("y" * 5000)
    assert len(full) == left - 1
    proc.ship()
    assert ["was cut" in text for text in proc.texts] == [False, True, True]
    assert len(said) == 1  # each record that is cut says so


def test_the_number_and_size_of_kept_side_files_are_limited(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    written, read = side_files_module.SideFiles(journal, 1 << 30), side_files_module.ReadSideFiles(journal)
    read.keep = True
    for size, count in ((10, 16), (1 << 20, 4), (5 << 20, 4)):
        for _ in range(20):
            number = written.put(b"x" * size, replace=False, patient=True)
            assert len(read.read(number)) == size
        assert len(read.left) == count
        assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, read.left))


def test_a_client_reads_only_regular_files(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    os.mkfifo(f"{journal}.1")
    os.symlink("/etc/passwd", f"{journal}.2")
    (tmp_path / "journal.3").write_bytes(b"x")
    os.truncate(tmp_path / "journal.3", 1 << 40)
    for number in range(1, 5):
        with pytest.raises(ProtocolError):
            side_files_module.ReadSideFiles(journal).read(number)
    assert os.listdir(tmp_path) == []


def test_waiting_calls_are_released_before_the_next_segment_is_sent(proc: Proc) -> None:
    """A segment that is shipped before it has a successor is found to be free when the next one is shipped."""
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


def test_no_thread_is_started_after_the_client_is_gone(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logging call would wait for it."""
    sent: list[Range] = []

    def send_data(piece: Range) -> None:
        sent.append(piece)
        raise BrokenPipeError

    forwarder = LogForwarder(SimpleNamespace(send_data=send_data, intact=True))  # type: ignore[arg-type]  # a link that fails
    forwarder.attach(proc.stream)
    monkeypatch.setattr(proc.stream, "wake", forwarder.wake)
    forwarder.start()
    proc.log("first")
    assert forwarder.wait_ended(60.0)
    for number in range(100):
        proc.log("%d", number)
    assert forwarder.wait_ended(0)
    assert len(sent) == 1


def test_what_is_dropped_before_a_flush_is_reported_before_its_sentinel(proc: Proc) -> None:
    """Also what is dropped, and flushed, while the forwarder ships."""
    frames: list[str] = []

    def send_data(piece: Range) -> None:
        sentinel = any(kind == FLUSH for kind, *_ in walk(piece.data))
        frames.append("sentinel" if sentinel else "records")
        if len(frames) == 1:
            proc.stream.journal.count_drop("policy", logging.WARNING)
            proc.stream.append_flush(1)

    link: Any = SimpleNamespace(send_data=send_data, send=lambda kind, payload: frames.append("drops"), intact=True)
    forwarder = LogForwarder(link)
    forwarder.attach(proc.stream)
    proc.log("before")
    forwarder.ship()
    assert frames == ["records", "drops", "sentinel"]


def test_large_records_of_many_threads_have_separate_side_files(proc: Proc) -> None:
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
def test_without_room_for_a_side_file_the_start_of_a_record_is_shown(
    procs: Callable[..., Proc], said: list[str], file: bool
) -> None:
    proc = procs("drop", file=file)
    if file:
        proc.stream._sides = side_files_module.SideFiles("/no/such/directory/journal", 1 << 20)
    proc.log("before")
    proc.log("y" * 10_000, levelno=20)
    proc.log("\0\u20ac" * 10_000, levelno=40)
    proc.log("after")
    proc.ship()
    before, *cut, after = proc.texts
    levels = [template.levelno for _, template, _ in proc.items if template is not None]
    assert levels[1:-1] == [30, 40], "a loss is a warning at least"
    assert (before, after) == ("before", "after")
    assert all("bytes was cut: no room" in text for text in cut)
    assert len(cut) == 2
    assert "yyyy" in cut[0]
    assert bool(said) == file
    assert not proc.drops


def test_a_flight_recorder_keeps_only_the_newest_side_files(proc: Proc, said: list[str]) -> None:
    proc.stream.lose_client()
    for number in range(100):
        proc.log("%d %s", number, "y" * 5000)
    assert side_files(proc) == sorted(map(str, range(85, 101)))


def test_a_sentinel_arrives_after_the_records_logged_before_it(proc: Proc) -> None:
    for number in range(200):
        proc.log("%d %s", number, PADDING)
        proc.stream.append_flush(number)
        if number % 20 == 0:
            proc.ship()
    proc.ship()
    assert sentinels(proc) == [(number, number + 1) for number in range(200)]


@pytest.mark.parametrize("on_full", ["block", "drop"])
def test_a_sentinel_without_room_does_not_block(procs: Callable[..., Proc], on_full: record_stream.OnFull) -> None:
    proc = procs(on_full)
    count = fill_up(proc)
    proc.stream.append_flush(7)
    proc.stream.append_flush(8)
    proc.ship()
    assert sentinels(proc) == [(7, count), (8, count)]
    assert not proc.drops


def test_a_postponed_sentinel_is_appended_to_the_next_segment(proc: Proc) -> None:
    count = fill_up(proc)
    proc.stream.append_flush(7)
    piece = proc.stream.journal.unshipped(1 << 20)
    assert piece is not None
    assert proc.stream.journal.shipped(piece)
    proc.log("next")
    proc.items.clear()
    for piece in JournalReader(str(proc.stream.journal.path)).ranges():
        RecordDecoder(IDENTITY, no_side_file).decode(piece.data, 0, 1 << 30, proc.items)
    assert [version for version, _ in sentinels(proc)] == [7]
    assert proc.texts[-1] == "next"
    assert len(proc.texts) <= count
    assert not proc.drops


def fill_up(proc: Proc) -> int:
    """Log until not even the smallest entry fits; return the number of records."""
    count = proc.fill()
    while record_stream._put(proc.stream.journal.appender, b"\xa5"):
        continue
    return count


def test_with_a_journal_in_memory_a_call_returns_after_its_record_is_shipped(procs: Callable[..., Proc]) -> None:
    proc = procs(file=False)
    thread = in_thread(lambda: proc.log("hello"))
    until(lambda: proc.woken)
    assert thread.is_alive()
    while thread.is_alive():
        proc.ship()
    assert joined(thread)
    assert proc.texts == ["hello"]


def test_with_a_journal_in_memory_calls_do_not_wait_without_need(
    procs: Callable[..., Proc], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropping = procs("drop", file=False)
    dropping.log("hello")
    lost = procs(file=False)
    thread = in_thread(lambda: lost.log("hello"))
    until(lambda: lost.woken)
    lost.stream.lose_client()
    assert joined(thread)
    lost.log("hello again")
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 0.01)
    starved = procs(file=False)
    starved.log("first")
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 60)
    starved.log("second")
    starved.ship()
    assert starved.texts == ["first", "second"]


def test_with_a_journal_in_memory_every_call_takes_the_slow_path(procs: Callable[..., Proc]) -> None:
    proc = procs("drop", file=False)
    proc.log("hello")
    proc.log("hello")
    assert not proc.stream.appender[0]
    assert not record_stream._put(proc.stream.appender, b"x")


@pytest.mark.parametrize("read_later", [False, True])
def test_a_call_that_waits_for_side_files_returns_when_the_client_is_gone(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read_later: bool
) -> None:
    wait, waits = proc.stream._sides.wait, threading.Event()  # type: ignore[union-attr]  # the journal is a file

    def note(blocking: bool, seconds: float) -> bool:
        waits.set()
        return wait(blocking, seconds)

    monkeypatch.setattr(proc.stream._sides, "wait", note)

    def log() -> None:
        for _ in range(20):
            proc.log("%s", "y" * 50_000)

    thread = in_thread(log)
    assert waits.wait(10)
    files = sorted(os.listdir(tmp_path))
    proc.stream.lose_client(read_later=read_later)
    thread.join(record_stream.BLOCK_SEC / 2)
    assert not thread.is_alive(), "the call must return before the limit"
    assert (sorted(os.listdir(tmp_path)) == files) is read_later
    assert bool(proc.drops) is read_later
