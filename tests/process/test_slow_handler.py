"""A stop waits for a slow handler. If a handler blocks, the number of records that it has not shown is reported."""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import threading
import time
from typing import Any

import pytest

from meshlog_handler import LogClient
from tests.waiting import until

from . import workers
from .procs import DEADLINE, join_all, run_python, started

pytestmark = pytest.mark.usefixtures("real_stdout")


class Slow(logging.Handler):
    """A handler that takes `seconds` for each record, and blocks after it has shown `count` records."""

    def __init__(self, seconds: float, count: int = -1, error: BaseException | None = None) -> None:
        super().__init__()
        self.seconds, self.count, self.error = seconds, count, error
        self.shown: list[str] = []
        self.reached, self.go = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        time.sleep(self.seconds)
        if len(self.shown) == self.count:
            self.reached.set()
            self.go.wait(DEADLINE)
        self.shown.append(record.getMessage())

    def __repr__(self) -> str:
        return "<Slow>"


def numbers(count: int) -> list[str]:
    """Return the messages that a worker logs."""
    return [f"number {number}" for number in range(count)]


@pytest.mark.parametrize("window", [None, 30.0], ids=["singly", "in groups"])
@pytest.mark.parametrize("lives", [False, True], ids=["of a worker that ended", "of one that lives"])
def test_a_stop_waits_for_a_slow_handler_as_long_as_it_makes_progress(lives: bool, window: float | None) -> None:
    handler = Slow(0.02)
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    client = LogClient(handler, aggregate_window_sec=window).start()
    if lives:
        with started("fork", workers.log_at_each_go, [(client.address, ready, go, ready, 200)]) as procs:
            assert ready.acquire(timeout=DEADLINE)
            for _ in range(200):
                go.release()
                assert ready.acquire(timeout=DEADLINE)
            client.stop(0.5)
            join_all(procs)
        expected = ["early", *(f"late {number}" for number in range(200))]
    else:
        with started("fork", workers.log_numbered, [(client.address, 200, "return")]) as procs:
            join_all(procs)
        client.stop(0.5)
        expected = numbers(200)
    if window is None:
        assert handler.shown == expected
    else:
        assert sum(int(match[1]) if (match := re.match(r"\[(\d+) ", text)) else 1 for text in handler.shown) == len(expected)


@pytest.mark.parametrize("before", [0, 1, 125])
def test_the_number_of_records_that_a_blocked_handler_has_not_shown_is_exact(
    before: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr("meshlog_handler.client.stopping.diagnose", said.append)
    handler = Slow(0.0, before)
    client = LogClient(handler).start()
    thread = client._thread
    assert thread is not None
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    try:
        with started("fork", workers.log_numbered, [(client.address, 600, "return", ready, go)] * 2) as procs:
            for _ in procs:  # both have joined before the first record blocks the handler
                assert ready.acquire(timeout=DEADLINE)
            for _ in procs:
                go.release()
            assert handler.reached.wait(DEADLINE)
            join_all(procs)
        client.stop(0.3)
        shown = len(handler.shown)
        assert shown == before
        (text,) = said
        assert text.startswith(f"the client is stopped without an orderly end, and {1200 - before:,} records were not shown: ")
        assert "handler <Slow> has been busy for" in text
    finally:
        handler.go.set()
        thread.join(DEADLINE)
    assert len(handler.shown) == before + 1, "nothing more is shown"
    assert "was removed" not in capfd.readouterr().err, "the client itself has removed the journals, and has said so"


PROGRAM = """
import logging, logging.config, sys, time
from meshlog_handler import LogClient, MeshHandler

class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(0.02)
        print(record.getMessage(), flush=True)

logging.basicConfig(level=logging.INFO, handlers=[MeshHandler(handlers=[Slow()], aggregate_window_sec=WINDOW)])
for number in range(100):
    logging.info("name " + "abcdefghij"[number % 10] * (number + 1))
print("main ends", flush=True)
"""


@pytest.mark.parametrize("window", ["None", "30"])
def test_the_exit_of_a_program_waits_for_a_slow_handler(window: str) -> None:
    done = run_python("-c", PROGRAM.replace("WINDOW", window), code=None)
    assert done.stderr == ""
    found = [re.match(r"(?:\[(\d+) .*)?name ", line) for line in done.stdout.splitlines()]
    assert sum(int(match[1] or 1) for match in found if match) == 100


def test_ctrl_c_ends_the_wait_and_the_number_of_records_not_shown_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("meshlog_handler.client.stopping.diagnose", said.append)
    handler = Slow(0.02)
    client = LogClient(handler).start()
    thread = client._thread
    assert thread is not None
    with started("fork", workers.log_numbered, [(client.address, 2000, "return")]) as procs:
        join_all(procs)
    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    interrupt.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.stop()
    assert time.monotonic() - began < 3
    interrupt.join()
    thread.join(DEADLINE)
    assert not client.running
    (text,) = said
    match = re.search(r"and ([\d,]+) records were not shown: interrupted by KeyboardInterrupt", text)
    assert match is not None
    assert abs(2000 - len(handler.shown) - int(match[1].replace(",", ""))) <= 2


def test_records_that_are_not_shown_are_counted_before_the_client_thread_discards_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler returns to the client thread between the decision to stop and the count."""
    said: list[str] = []
    monkeypatch.setattr("meshlog_handler.client.stopping.diagnose", said.append)
    handler = Slow(0.0, 1)
    client = LogClient(handler).start()
    core, thread = client._loop, client._thread
    assert thread is not None
    with started("fork", workers.log_numbered, [(client.address, 500, "return")]) as procs:
        assert handler.reached.wait(DEADLINE)
        join_all(procs)
    count: Any = type(core).__dict__["waiting"].fget

    def after_the_handler(self: object) -> int:
        handler.go.set()
        until(lambda: len(handler.shown) == 2, DEADLINE, "the handler to return")
        return int(count(self))

    monkeypatch.setattr(type(core), "waiting", property(after_the_handler))
    client.stop(0.1)
    thread.join(DEADLINE)
    assert len(handler.shown) == 2
    (text,) = said
    assert text.startswith("the client is stopped without an orderly end, and 498 records were not shown: ")
