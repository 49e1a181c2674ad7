"""A worker waits until the client has shown what it logged."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, LogRelay, complete, install
from meshlog_handler.testing import RecordCollector

from .procs import DEADLINE, importing, run_python
from .test_blocked_handler import Blocks


def logs_and_completes(address: str, capture: bool, timeout: float | None, told: Any, go_on: Any = None) -> None:
    """Log, print and tell the result of `complete`."""
    install(address, capture=capture)
    for number in range(100):
        logging.info("record %d", number)
    os.write(1, b"printed\n")
    if go_on is not None:
        told.send("ready")
        assert go_on.wait(DEADLINE)
    told.send(complete(timeout))


class Worker:
    """A worker that calls `complete`."""

    def __init__(self, address: str, timeout: float | None = DEADLINE, *, waits: bool = False, capture: bool = True) -> None:
        context = multiprocessing.get_context("fork")
        self.told, theirs = context.Pipe(duplex=False)
        self.go_on = context.Event()
        args = (address, capture, timeout, theirs, self.go_on if waits else None)
        self.process = context.Process(target=logs_and_completes, args=args)
        self.process.start()
        theirs.close()

    def tells(self) -> object:
        """Return what it tells next."""
        assert self.told.poll(DEADLINE)
        return self.told.recv()

    def end(self) -> None:
        """Wait for its end."""
        self.process.join(DEADLINE)
        assert self.process.exitcode == 0
        self.told.close()


@pytest.mark.parametrize("window", [None, 60.0])
def test_everything_is_shown_when_it_returns(window: float | None) -> None:
    shown = RecordCollector()
    with LogClient(shown, aggregate_window_sec=window) as client:
        worker = Worker(client.address)
        assert worker.tells() is True
        messages = [record.getMessage() for record in shown.records]
        worker.end()
    assert "printed" in messages
    assert ("record 99" if window is None else "[100 similar log lines] [rank 0] record 0..99") in messages


def test_it_is_false_at_the_timeout() -> None:
    handler = Blocks()
    with LogClient(handler) as client:
        try:
            worker = Worker(client.address, 0.2)
            assert worker.tells() is False
        finally:
            handler.go.set()
        worker.end()


def test_it_is_false_if_the_client_is_gone() -> None:
    with LogClient(RecordCollector()) as client:
        worker = Worker(client.address, waits=True, capture=False)
        assert worker.tells() == "ready"
    worker.go_on.set()
    assert worker.tells() is False
    worker.end()


def test_it_is_false_in_a_process_that_has_joined_no_client() -> None:
    assert complete(0) is False


def test_below_a_relay_it_waits_for_the_relay() -> None:
    shown = RecordCollector()
    with LogClient(shown) as client, LogRelay(client.address) as relay:
        worker = Worker(relay.address)
        assert worker.tells() is True
        client.flush(DEADLINE)
        assert sum("record" in record.getMessage() for record in shown.records) == 100
        worker.end()


@pytest.mark.parametrize("job", ["", "complete"])
def test_the_clients_process_waits_for_what_its_ended_children_logged(job: str, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    done = run_python("-m", "tests.process.job_writer", "read", str(path), job, env=importing())
    assert done.stdout.split() == ["True", "6000"], done.stderr
    assert len(path.read_text().splitlines()) == 6000
