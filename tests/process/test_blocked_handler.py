"""A handler that blocks for ever: every wait ends at its own timeout, and the error names the handler."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import meshlog_handler
from meshlog_handler import BusyError, FlushTimeout, LogClient, this_host
from meshlog_handler.client import stopping
from meshlog_handler.errors import ClosedError
from meshlog_handler.mesh import control
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from . import workers
from .procs import DEADLINE, started

GRACE = 0.5


class Blocks(RecordCollector):
    """Blocks in one method from the first record on, until `go` is set."""

    def __init__(self, place: str = "emit") -> None:
        super().__init__()
        self.place = place
        self.reached, self.go = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self._block("emit")

    def flush(self) -> None:
        if self.records:
            self._block("flush")

    def _block(self, place: str) -> None:
        if place == self.place:
            self.reached.set()
            self.go.wait(DEADLINE)

    def __repr__(self) -> str:
        return f"<Blocks in {self.place}>"


def greet_and_wait(address: str, done: threading.Event) -> None:
    """Log, and run until `done` is set."""
    meshlog_handler.install(address, capture=False)
    workers.greet(0)
    done.wait(DEADLINE)


@contextmanager
def blocked(place: str = "emit") -> Iterator[tuple[LogClient, Blocks]]:
    """Yield a client with one worker whose record blocks the handler; release both at the end."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    handler, done = Blocks(place), context.Event()
    shows = LogClient(handler).start()
    thread = shows._thread
    assert thread is not None
    try:
        with started("fork", greet_and_wait, [(shows.address, done)]):
            if place == "flush":
                handler.wait_for(lambda records: bool(records), DEADLINE)
                shows.flush_soon(DEADLINE)
            assert handler.reached.wait(DEADLINE)
            yield shows, handler
            done.set()
    finally:
        handler.go.set()
        shows.stop()
        thread.join(DEADLINE)


@pytest.mark.parametrize("place", ["emit", "flush"])
def test_a_flush_ends_at_its_own_timeout_and_its_receipt_names_the_handler(place: str) -> None:
    with blocked(place) as (shows, _):
        for timeout in (0.0, 0.3, 1.0):
            began = time.monotonic()
            with pytest.raises(FlushTimeout, match=f"<Blocks in {place}> has been busy for") as caught:
                shows.flush(timeout)
            assert timeout <= time.monotonic() - began < timeout + GRACE
            assert caught.value.receipt.missing == (0,)
            assert f"<Blocks in {place}>" in caught.value.receipt.busy


def test_a_flush_completes_once_the_handler_continues() -> None:
    with blocked() as (shows, handler):
        with pytest.raises(FlushTimeout):
            shows.flush(0.1)
        handler.go.set()
        receipt = shows.flush(DEADLINE)
        assert (receipt.acked, receipt.busy) == ((0,), "")


ASKED: dict[str, Callable[[LogClient], object]] = {
    "stats": lambda shows: shows.stats(),
    "set_window": lambda shows: shows.set_window(1.0),
    "set_handlers": lambda shows: shows.set_handlers([RecordCollector()]),
    "set_streaming": lambda shows: shows.set_streaming(False),
    "ranks": lambda shows: shows.ranks(""),
    "refuse_commands": lambda shows: shows.refuse_commands(),
    "ask": lambda shows: shows.ask(lambda: 1),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_call_on_the_client_thread_times_out_and_its_error_names_the_handler(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogClient.ask, "__defaults__", (0.3,))
    with blocked() as (shows, _):
        began = time.monotonic()
        with pytest.raises(BusyError, match="handler <Blocks in emit> has been busy for"):
            ASKED[what](shows)
        assert time.monotonic() - began < 0.3 + GRACE


def test_a_call_that_timed_out_does_not_run_later() -> None:
    done: list[int] = []
    with blocked() as (shows, handler):
        with pytest.raises(BusyError):
            shows.ask(lambda: done.append(1), 0.1)
        handler.go.set()
        assert shows.ask(lambda: 2) == 2
        assert done == []


def test_a_stop_gives_up_reports_the_reason_and_removes_the_run_directory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stopping, "_BLOCKED_SEC", 0.3)
    with blocked() as (shows, _):
        directory = os.path.dirname(shows._rundir.path)
        assert os.listdir(directory)
        began = time.monotonic()
        shows.stop(0.5)
        assert time.monotonic() - began < 0.5 + 0.3 + 2 * GRACE
        assert not shows.running
        assert not os.path.exists(shows._rundir.path)
        shows.stop()
        with pytest.raises(ClosedError):
            shows.flush()
    assert "stopped without an orderly end, and 1 records were not shown: handler <Blocks in emit>" in capfd.readouterr().err


def test_concurrent_flushes_each_end_at_their_own_timeout() -> None:
    with blocked() as (shows, _), ThreadPoolExecutor(8) as pool:

        def flush(timeout: float) -> float:
            began = time.monotonic()
            with pytest.raises(FlushTimeout):
                shows.flush(timeout)
            return time.monotonic() - began

        timeouts = [0.1 * (number % 4 + 1) for number in range(8)]
        for timeout, took in zip(timeouts, pool.map(flush, timeouts), strict=True):
            assert timeout <= took < timeout + GRACE


def warn() -> int:
    """Log one record."""
    logging.warning("one")
    return os.getpid()


def test_a_mesh_with_a_blocked_handler_ends_its_procs_in_time() -> None:
    handler = Blocks()
    with this_host().spawn_procs(per_host={"gpus": 2}, handlers=[handler], start_method="fork") as procs:
        thread = procs.logging.client._thread
        assert thread is not None
        pids = procs.call(warn).get(DEADLINE)
        assert handler.reached.wait(DEADLINE)
        began = time.monotonic()
        stopping = procs.stop(2)
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="the procs to end")
        assert time.monotonic() - began < 4
        stopping.get(DEADLINE)
        assert time.monotonic() - began < 12
    handler.go.set()
    thread.join(DEADLINE)


def test_commands_to_ranks_time_out_and_their_error_names_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "COMMAND_SEC", 0.3)
    handler = Blocks()
    with this_host().spawn_procs(per_host={"gpus": 1}, handlers=[handler], start_method="fork") as procs:
        logs = procs.logging
        procs.call(warn).get(DEADLINE)
        assert handler.reached.wait(DEADLINE)
        orders: list[Callable[[], object]] = [lambda: logs.set_level("DEBUG"), lambda: logs.configure({"version": 1})]
        for order in orders:
            began = time.monotonic()
            with pytest.raises(BusyError, match="<Blocks in emit>"):
                order()
            assert time.monotonic() - began < 3
        handler.go.set()
        logs.client.ask(lambda: None, DEADLINE)
        logs.set_level("INFO")
