"""Exceptions from handlers: the client's thread continues, no record is shown twice, and no other record is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from concurrent.futures import Future
from typing import Any

import pytest

from meshlog_handler import LogClient
from meshlog_handler.dispatch import dispatcher
from meshlog_handler.testing import CollectedLogs, RecordCollector

from . import workers
from .procs import DEADLINE, held_up, join_all, started

RAISED: list[type[BaseException]] = [
    ValueError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    MemoryError,
    RecursionError,
    pytest.fail.Exception,
    BaseException,
]
each_error = pytest.mark.parametrize("error", RAISED, ids=lambda error: error.__name__)


class Breaks(RecordCollector):
    """Keeps each record, then raises in one of its methods."""

    def __init__(self, error: type[BaseException], place: str) -> None:
        super().__init__()
        self._error, self._place = error, place
        if place == "filter":
            self.addFilter(self._raise)

    def _raise(self, record: object = None) -> bool:
        raise self._error("on purpose")

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self._place == "emit":
            self._raise()

    def flush(self) -> None:
        if self._place == "flush":
            self._raise()

    @property
    def flush_per_tick(self) -> bool:
        if self._place == "flush_per_tick":
            self._raise()
        return self._place == "flush"

    def __repr__(self) -> str:
        if self._place == "emit":
            self._raise()
        return "<Breaks>"


# README, "What is guaranteed": Logging never breaks the program.
@each_error
@pytest.mark.parametrize("place", ["emit", "filter", "flush", "flush_per_tick"])
def test_an_exception_from_a_handler_ends_no_thread_and_loses_no_record(error: type[BaseException], place: str) -> None:
    broken, after = Breaks(error, place), RecordCollector()
    with LogClient(broken, after) as client:
        with started("fork", workers.log_numbered, [(client.address, 50, "return")] * 2) as procs:
            join_all(procs)
        assert client.flush(DEADLINE).missing == ()
        assert client.running
    expected = Counter({f"number {number}": 2 for number in range(50)})
    assert Counter(after.messages) == expected
    if place != "filter":
        assert Counter(broken.messages) == expected


@each_error
@pytest.mark.parametrize("window", [None, 60.0])
def test_an_item_that_cannot_be_dispatched_is_dropped_counted_and_not_retried(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], window: float | None, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "_give" if window is None else "_dispatch_one"
    original: Any = getattr(dispatcher.Dispatcher, name)
    failed = False

    def fails_once(self: dispatcher.Dispatcher, *args: Any) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise error("on purpose")
        original(self, *args)

    monkeypatch.setattr(dispatcher.Dispatcher, name, fails_once)
    collector = RecordCollector()
    with LogClient(collector, aggregate_window_sec=window) as client:
        logs = CollectedLogs(client, collector)
        with started("fork", workers.log_numbered, [(client.address, 50, "return")]) as procs:
            join_all(procs)
        assert logs.flush(DEADLINE).missing == ()
        assert client.stats()[0].dropped == {"unreadable": 1}
    assert capfd.readouterr().err.count("cannot be shown") == 1
    assert any("dropped 1 records" in text for text in logs.messages)
    if window is None:
        assert [text for text in logs.messages if "number" in text] == [f"number {number}" for number in range(1, 50)]


def test_a_step_that_always_fails_blocks_no_other_step_and_does_not_flood_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(self: dispatcher.Dispatcher, now: float) -> None:
        raise OSError("always")

    monkeypatch.setattr(dispatcher.Dispatcher, "expire", fails)
    collector = RecordCollector()
    with LogClient(collector) as client:
        with started("fork", workers.log_numbered, [(client.address, 50, "return")]) as procs:
            join_all(procs)
        for _ in range(100):
            client.stats()
        assert client.flush(DEADLINE).missing == ()
    assert collector.messages == [f"number {number}" for number in range(50)]
    said = capfd.readouterr().err
    assert "the client's thread goes on after a failure: OSError: always" in said
    assert len(said) < 2000


@each_error
def test_an_exception_from_a_call_on_the_client_thread_goes_to_the_caller(error: type[BaseException]) -> None:
    def fails() -> None:
        raise error("on purpose")

    with LogClient(RecordCollector()) as client:
        assert isinstance(client.on_thread(fails).exception(DEADLINE), error)
        assert client.flush(DEADLINE).missing == ()


@each_error
def test_an_exception_from_a_callback_of_a_flush_does_not_stop_the_client(error: type[BaseException]) -> None:
    def fails(_: Future[Any]) -> None:
        raise error("on purpose")

    with LogClient(RecordCollector()) as client:
        with held_up(client):  # else the future may be done already, and its callback would run here
            for _ in range(3):
                client.flush_soon(DEADLINE).add_done_callback(fails)
        assert client.flush(DEADLINE).missing == ()
        assert client.running


def test_a_cancelled_flush_takes_no_acknowledgement_from_another_flush() -> None:
    with LogClient(RecordCollector()) as client:
        with started("fork", workers.log_numbered, [(client.address, 50, "return")]) as procs:
            join_all(procs)

            async def gives_up() -> None:
                waiting = asyncio.ensure_future(asyncio.wrap_future(client.flush_soon(DEADLINE)))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

            for _ in range(20):
                client.flush_soon(DEADLINE).cancel()
                asyncio.run(gives_up())
                assert client.flush(DEADLINE).missing == ()
                assert client.on_thread(lambda: 1).cancel() in (True, False)
        assert client.flush(DEADLINE).missing == ()


def test_running_is_true_while_the_client_thread_is_alive() -> None:
    client = LogClient(RecordCollector())
    assert not client.running
    client.start()
    assert client.running
    thread = client._thread
    assert isinstance(thread, threading.Thread)
    client.on_thread(client._loop.end)  # the thread ends by itself
    thread.join(DEADLINE)
    assert not client.running
    client.stop()
