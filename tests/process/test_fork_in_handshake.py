"""A child that the client process forks while a worker joins keeps no descriptor of the connection.

If it did, the worker would not notice the end of the client.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler import LogClient
from meshlog_handler.transport import channel
from meshlog_handler.transport.channel import Address, authenticate
from tests.waiting import until

from . import workers
from .hostile import knock
from .procs import DEADLINE, join_all, started

pytestmark = [
    pytest.mark.usefixtures("real_stdout"),
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only /proc tells what a process has open"),
]


class Halt:
    """A point where the client's thread waits until the test releases it."""

    def __init__(self) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def halted(*args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self.let_go.wait(DEADLINE)
            return function(*args, **options)

        return halted


def challenge(client: LogClient, halt: Halt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlog_handler.transport.listener.challenge", halt.before(channel.challenge))


def admit(client: LogClient, halt: Halt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client._listener, "_admit", halt.before(client._listener._admit))


def begin(client: LogClient, halt: Halt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client._loop, "add", halt.before(client._loop.add))


def open_files() -> dict[int, str]:
    """Return the open files of this process by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor that lists the directory
            continue
    return found


def more_in_a_child(before: set[str], path: Path) -> list[str]:
    """Fork, and return the open files of the child that are not in `before`."""
    pid = os.fork()
    if pid == 0:
        try:
            path.write_text("\n".join(sorted(set(open_files().values()) - before)))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    return path.read_text().splitlines()


@pytest.mark.parametrize("step", [challenge, admit, begin])
def test_a_child_keeps_no_descriptor_of_a_worker_that_is_joining(
    step: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    halt = Halt()
    go = multiprocessing.get_context("fork").Semaphore(0)
    with LogClient() as client, started("fork", workers.print_when_told, [(client.address, go)]) as procs:
        client.stats()
        before = set(open_files().values())
        step(client, halt, monkeypatch)
        go.release()
        try:
            assert halt.reached.wait(DEADLINE)
            assert set(open_files().values()) - before, "this process has the connection open"
            left = more_in_a_child(before, tmp_path / "left")
        finally:
            halt.let_go.set()
        assert left == []
        assert join_all(procs) == [0]
        client.flush()
        assert [(stats.rank, stats.lines) for stats in client.stats().values()] == [(0, 1)]


def test_a_client_that_stops_refuses_a_joining_worker_at_once() -> None:
    client = LogClient().start()
    with authenticate(knock(client.address), Address.parse(client.address).key) as sock:
        until(lambda: client._listener.pending == 1)
        client.stop()
        with contextlib.suppress(ConnectionError):  # it closed with unread bytes of this end
            assert sock.recv(1) == b""
