from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from meshlog_handler.errors import SettingError
from meshlog_handler.journal.reader import JournalReader
from meshlog_handler.protocol.decode import RecordDecoder
from meshlog_handler.worker import record_stream
from meshlog_handler.worker.record_stream import check_on_full, internal_threads, transport_threads

from ...waiting import until
from ..crossing import IDENTITY, no_side_file
from ..one_proc import PADDING, Proc, Waits, in_thread, joined


def test_records_arrive_in_order_and_wake_only_an_idle_forwarder(proc: Proc) -> None:
    for number in range(3):
        proc.log("step %d", number)
    assert proc.woken == 1
    proc.ship()
    proc.stream.idle = True
    proc.log(f"step {3}")
    assert proc.woken == 2
    proc.ship()
    assert proc.texts == ["step 0", "step 1", "step 2", "step 3"]


def test_a_full_journal_blocks_until_a_segment_is_shipped(proc: Proc) -> None:
    count = proc.fill()

    def log() -> None:
        for more in range(20):
            proc.log("%d %s", count + more, PADDING)

    thread = in_thread(log)
    until(lambda: proc.stream._waiting)
    assert not proc.drops
    while thread.is_alive():
        proc.ship()
    assert joined(thread)
    proc.ship()
    assert proc.texts == [str(number) for number in range(count + 20)]
    assert not proc.drops


def test_a_call_waits_up_to_the_limit_and_later_calls_do_not_wait(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 0.01)
    count = proc.fill()
    for _ in range(5):
        proc.log(PADDING * 3, levelno=30)
    assert proc.drops == [("full", 30, 5)]
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 60)
    for _ in range(5):
        proc.log(PADDING * 3, levelno=20)  # each would wait for a minute
    assert proc.drops == [("full", 30, 5), ("full", 20, 5)]
    proc.ship()
    proc.log("again")
    proc.ship()
    assert proc.texts == [*map(str, range(count)), "again"]


def test_calls_wait_while_the_client_makes_progress(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_stream, "BLOCK_SEC", 0.001)
    waits = Waits(monkeypatch, proc, proc.stream.client_moves, proc.stream.client_moves, proc.ship)
    count = proc.fill()
    proc.log("%d %s", count, PADDING * 3)
    assert waits.left == []
    proc.ship()
    assert proc.texts == [str(number) for number in range(count + 1)]
    assert not proc.drops


def test_the_policy_drop_never_waits_and_counts_exactly(procs: Callable[..., Proc]) -> None:
    proc = procs("drop")
    for number in range(500):
        proc.log("%d %s", number, PADDING, levelno=20.5 if number % 2 else 20)
    proc.ship()
    dropped = sum(count for reason, level, count in proc.drops if (reason, level) == ("policy", 20))
    assert dropped > 0
    assert len(proc.texts) + dropped == 500
    assert proc.texts == [str(number) for number in range(len(proc.texts))]


def test_threads_log_while_the_journal_is_shipped(proc: Proc) -> None:
    def log(name: int) -> None:
        for number in range(150):
            proc.log("%d %d %s", name, number, PADDING)

    threads = [in_thread(lambda name=name: log(name)) for name in range(4)]  # type: ignore[misc]  # a default binds it
    while any(thread.is_alive() for thread in threads):
        proc.ship(1000)
    assert all(map(joined, threads))
    proc.ship()
    for name in range(4):
        assert [text for text in proc.texts if text.startswith(f"{name} ")] == [f"{name} {number}" for number in range(150)]
    assert len(proc.texts) == 600
    assert not proc.drops


def test_without_a_client_blocked_calls_return_and_the_newest_records_are_kept(proc: Proc, said: list[str]) -> None:
    count = proc.fill()
    thread = in_thread(lambda: proc.log("%d %s", count, PADDING * 3))
    until(lambda: proc.stream._waiting)
    proc.stream.lose_client()
    assert joined(thread)
    for number in range(count + 1, count + 300):
        proc.log("%d %s", number, PADDING)
    assert said == []
    proc.log("%d %s", count + 300, "broken", levelno=40, levelname="ERROR")
    proc.log("%d", "x", levelno=30, levelname="WARNING")
    assert said == [f"ERROR app.part: {count + 300} broken", "WARNING app.part: %d [cannot be formatted: TypeError]"]
    assert not proc.drops
    proc.items.clear()
    for piece in JournalReader(str(proc.stream.journal.path)).ranges():
        decoder = RecordDecoder(IDENTITY, no_side_file)
        decoder.decode(piece.data, 0, 1 << 30, proc.items)
    kept = [int(text.split()[0]) for text in proc.texts[:-1]]
    assert kept == list(range(kept[0], count + 301))
    assert len(kept) > count / 2


def test_without_a_relay_blocked_calls_return_and_nothing_is_overwritten_that_a_later_one_reads(proc: Proc) -> None:
    count = proc.fill()
    thread = in_thread(lambda: proc.log("%d %s", count, PADDING * 3, levelno=30))
    until(lambda: proc.stream._waiting)
    proc.stream.lose_client(read_later=True)
    assert joined(thread)
    for number in range(200):
        proc.log("%d %s", number, PADDING * 3)
    assert proc.drops == [("gone", 30, 1), ("gone", 20, 200)]
    reader = JournalReader(str(proc.stream.journal.path))
    for piece in reader.ranges():
        RecordDecoder(IDENTITY, no_side_file).decode(piece.data, 0, 1 << 30, proc.items)
    assert proc.texts == [str(number) for number in range(count)]
    assert reader.drops() == proc.drops


@contextlib.contextmanager
def registered(*kinds: set[int], thread: int | None = None) -> Iterator[None]:
    """Register a thread, by default the current one, as a thread of the package."""
    ident = thread or threading.get_ident()
    for kind in kinds:
        kind.add(ident)
    try:
        yield
    finally:
        for kind in kinds:
            kind.discard(ident)


@pytest.mark.parametrize("thread", [threading.get_ident(), None], ids=["logThreads", "no logThreads"])
def test_records_of_internal_threads_are_not_forwarded(proc: Proc, thread: int | None) -> None:
    with registered(internal_threads):
        proc.log("ours", thread=thread)
    proc.log("theirs", thread=thread)
    proc.ship()
    assert proc.texts == ["theirs"]


def test_a_queued_record_of_an_internal_thread_is_not_forwarded_but_one_of_another_process_is(proc: Proc) -> None:
    with registered(internal_threads, thread=77):
        proc.log("ours", thread=77, process=os.getpid())
        proc.log("from elsewhere", thread=77, process=os.getpid() + 1)
    proc.ship()
    assert proc.texts == ["from elsewhere"]


def test_without_logThreads_records_take_the_slow_path_if_internal_threads_call_handlers(proc: Proc) -> None:
    def adds_a_schema(thread: int | None) -> bool:
        known = len(proc.stream.appender[0])
        proc.log("%d", 1, thread=thread, lineno=known)
        return len(proc.stream.appender[0]) > known

    with registered(internal_threads, thread=77):
        assert [adds_a_schema(5), adds_a_schema(None)] == [True, False]
    with registered(internal_threads, transport_threads, thread=77):
        assert [adds_a_schema(5), adds_a_schema(None)] == [True, True]


def test_records_of_finalizers_on_transport_threads_are_forwarded_without_waiting(proc: Proc) -> None:
    with registered(internal_threads, transport_threads):
        proc.log("finalized")
    full = proc.fill()
    with registered(internal_threads, transport_threads):
        proc.log("no room for %s", PADDING)
    assert proc.drops == [("full", logging.INFO, 1)]
    proc.ship()
    assert proc.texts[0] == "finalized"
    assert len(proc.texts) == 1 + full


def test_valid_and_invalid_policies() -> None:
    assert [check_on_full(policy) for policy in ("block", "drop")] == ["block", "drop"]
    with pytest.raises(SettingError, match=r"'wait' is not a policy\. Valid: 'block'"):
        check_on_full("wait")
