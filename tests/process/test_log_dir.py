"""Several clients can keep their files in one directory. A client that cannot start leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import multiprocessing
import os
import selectors
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient, LogRelay
from meshlog_handler.testing import RecordCollector
from tests.waiting import until

from . import workers
from .procs import DEADLINE, held_up, join_all, started


def test_a_second_client_does_not_touch_the_journals_and_files_of_the_first(tmp_path: Path) -> None:
    """Two hosts that share a directory do this."""
    collected = RecordCollector()
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    with LogClient(collected, log_dir=tmp_path) as first:
        with started("fork", workers.log_numbered, [(first.address, 5, "return")]) as procs:
            assert join_all(procs) == [0]
        first.flush()
        with started("fork", workers.log_numbered, [(first.address, 2000, "SIGKILL", ready, go)]) as procs:
            assert ready.acquire(timeout=DEADLINE)
            with held_up(first):
                go.release()
                assert join_all(procs) == [-signal.SIGKILL]
                with LogClient(logging.NullHandler(), log_dir=tmp_path) as second:
                    with started("fork", workers.log_numbered, [(second.address, 10, "return")]) as others:
                        assert join_all(others) == [0]
                    second.flush()
        first.flush()
        numbers = [record.getMessage() for record in collected.records if record.name == workers.NAME]
    assert numbers == [f"number {number}" for number in (*range(5), *range(2000))]
    lines = {path.name: path.read_text().splitlines() for path in tmp_path.glob("rank-*.log")}
    # An exit report repeats the last lines, indented.
    files = {name: sum(f"{workers.NAME}: number" in line and line[0] != " " for line in found) for name, found in lines.items()}
    assert files == {"rank-0.log": 5, "rank-0.2.log": 10, "rank-1.log": 2000}
    assert not list(tmp_path.glob(".meshlog-*"))


def test_the_descriptors_of_a_relay_that_stops_are_closed_at_once() -> None:
    """This works without the garbage collector, because training loops switch it off."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with LogClient(logging.NullHandler()) as client:
            with LogRelay(client.address):
                most = len(names_of_descriptors())
            for _ in range(3):
                with LogRelay(client.address):
                    pass
                until(lambda: not any("journal" in name for name in names_of_descriptors()), what="maps to go")
                until(lambda: len(names_of_descriptors()) < most, what="descriptors to go")
    finally:
        if enabled:
            gc.enable()


def names_of_descriptors() -> list[str]:
    """Return the targets of the descriptors of this process."""
    names = []
    for fd in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the descriptor that lists the directory
            names.append(os.readlink(f"/dev/fd/{fd}"))
    return names


@pytest.mark.parametrize("what", ["socket", "pipe", "selector", "thread", "log_dir"])
def test_a_client_that_cannot_start_leaves_nothing_behind(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLOG_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)

    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    client = LogClient(logging.NullHandler(), log_dir=tmp_path / "logs")
    with monkeypatch.context() as patch:
        if what == "socket":
            patch.setattr(socket, "socket", none_left)
        elif what == "pipe":
            patch.setattr(os, "pipe", none_left)
        elif what == "selector":
            patch.setattr(selectors, "DefaultSelector", none_left)
        elif what == "thread":
            start = threading.Thread.start
            patch.setattr(threading.Thread, "start", lambda self: none_left() if self.name == "meshlog-client" else start(self))
        else:
            (tmp_path / "logs").write_text("not a directory")
        with pytest.raises(OSError, match=r"Too many|exists"):
            client.start()
    assert not client.running
    assert [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(("run-", ".making"))] == []
    if what == "log_dir":
        return
    with client:
        assert client.flush().missing == ()
    assert list((tmp_path / "logs").iterdir()) == []
