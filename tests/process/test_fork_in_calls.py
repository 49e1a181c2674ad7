"""A process may fork at any moment of a call that another of its threads makes: neither the child nor the call is blocked."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

import meshlog_handler
from meshlog_handler import ConnectError, LogClient, LogRelay
from meshlog_handler.client.relay import log_relay
from meshlog_handler.client.relay.uplink import Uplink
from meshlog_handler.testing import RecordCollector

from . import forkers
from .procs import DEADLINE

PACKAGE = str(Path(meshlog_handler.__file__).parent)
PLACES = (0, 7, 23, 61, 149)
CHILD_SEC = 20
PAUSE_SEC = 0.05
"""For so long, a call waits at most where the process forks. A fork waits for a call that joins or leaves."""


def work_of_child() -> None:
    signal.alarm(CHILD_SEC)  # ends a child that hangs
    logging.getLogger("forked").warning("from a child")
    meshlog_handler.uninstall()


def fork_at(place: int, call: Callable[[], object], by_caller: bool) -> bool:
    """Make a call on another thread, and fork where it enters the function of this number. Return whether it came that far.

    The thread itself forks, or it waits while this one forks.
    """
    left = place
    there, forked = threading.Event(), threading.Event()
    statuses: list[int] = []

    def fork() -> None:
        statuses.append(forkers.wait(forkers.fork(work_of_child)))

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            left -= 1
            if left < 0:
                sys.settrace(None)
                if by_caller:
                    fork()
                else:
                    there.set()
                    forked.wait(PAUSE_SEC)
        return None

    def run() -> None:
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(None)
            there.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert there.wait(30)
    if left < 0 and not by_caller:
        fork()
        forked.set()
    thread.join(30)
    assert not thread.is_alive(), f"the call hangs after a fork at place {place}"
    assert statuses in ([0], []), f"a child that was forked at place {place} ended with {statuses}"
    return left < 0


def installed(address: str) -> Callable[[], object]:
    return lambda: meshlog_handler.install(address)


def logged(address: str) -> Callable[[], object]:
    meshlog_handler.install(address)

    def log() -> None:
        for number in range(3):
            logging.getLogger("forker").warning("number %d", number)

    return log


def left(address: str) -> Callable[[], object]:
    meshlog_handler.install(address)
    return meshlog_handler.uninstall


@pytest.mark.usefixtures("real_stdout")
@pytest.mark.parametrize("by_caller", [True, False], ids=["by-the-caller", "by-another-thread"])
@pytest.mark.parametrize("prepare", [installed, logged, left])
def test_a_fork_during_a_call_of_a_worker_blocks_neither(
    prepare: Callable[[str], Callable[[], object]], by_caller: bool, address: str
) -> None:
    for place in PLACES:
        came = fork_at(place, prepare(address), by_caller)
        meshlog_handler.uninstall()
        if not came:
            break
    assert place


def flushed(client: LogClient) -> Callable[[], object]:
    return client.start().flush


def stopped(client: LogClient) -> Callable[[], object]:
    return client.start().stop


@pytest.mark.parametrize("by_caller", [True, False], ids=["by-the-caller", "by-another-thread"])
@pytest.mark.parametrize("prepare", [flushed, stopped])
def test_a_fork_during_a_call_of_a_client_blocks_neither(
    prepare: Callable[[LogClient], Callable[[], object]], by_caller: bool
) -> None:
    for place in PLACES:
        client = LogClient(RecordCollector())
        came = fork_at(place, prepare(client), by_caller)
        client.stop()
        if not came:
            break
    assert place


def test_a_process_that_is_forked_while_its_relay_starts_can_start_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, connects = threading.Event(), threading.Event()

    def connect_later(*args: Any) -> Uplink:
        connecting.set()
        connects.wait(DEADLINE)
        return Uplink(*args)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConnectError("in the child")

    def start_too() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends a child that hangs
        signal.alarm(CHILD_SEC)
        monkeypatch.setattr(log_relay, "RunDir", refuse)
        with pytest.raises(ConnectError):
            below.start()

    monkeypatch.setattr(log_relay, "Uplink", connect_later)
    with LogClient(RecordCollector()) as client:
        below = LogRelay(client.address)
        starter = threading.Thread(target=below.start)
        starter.start()
        assert connecting.wait(DEADLINE)
        assert forkers.wait(forkers.fork(start_too)) == 0
        connects.set()
        starter.join()
        assert below.running
        below.stop()
