"""Ctrl-C during a public call reaches the caller at any moment, and the next `stop` cleans up everything."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import meshlog_handler
from meshlog_handler import LogClient
from meshlog_handler.testing import RecordCollector

from ..waiting import until

FILES = (str(Path(meshlog_handler.__file__).parent), threading.__file__)


def interrupt_at(place: int, call: Callable[[], object]) -> bool:
    """Make a call, and raise KeyboardInterrupt where it enters the function of this number. Return whether it came that far.

    Python checks for signals at such places, among others, but not between two lines, for example in the middle of a ``with``.
    """
    left = place

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        if event == "call":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    assert left >= 0, "the interrupt did not reach the caller"
    return False


def started(client: LogClient) -> Callable[[], object]:
    return client.start


def stopped(client: LogClient) -> Callable[[], object]:
    return client.start().stop


def flushed(client: LogClient) -> Callable[[], object]:
    return client.start().flush


@pytest.mark.parametrize("prepare", [started, stopped, flushed])
def test_an_interrupt_of_a_client_leaves_no_threads_or_descriptors(
    prepare: Callable[[LogClient], Callable[[], object]],
) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with contextlib.ExitStack() as stack:
        stack.enter_context(LogClient(RecordCollector()))  # some things are loaded once, and stay
    threads, fds = threading.active_count(), descriptors()
    place = 0
    interrupted = True
    while interrupted:
        client = LogClient(RecordCollector())
        call = prepare(client)
        interrupted = interrupt_at(place, call)
        client.stop()
        assert not client.running, f"after place {place}"
        until(lambda: (threading.active_count(), descriptors()) == (threads, fds), what=f"nothing left after place {place}")
        place += 1
    assert place > 5


def serve(pipe: Any) -> None:
    """Run a client until the pipe sends a message."""
    with LogClient(RecordCollector()) as client:
        pipe.send(client.address)
        pipe.recv()


@pytest.fixture
def address() -> Iterator[str]:
    """Yield the address of a client in another process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,))
    process.start()
    yield here.recv()
    here.send(None)
    process.join()
    here.close()
    there.close()


def installed(address: str) -> Callable[[], object]:
    return lambda: meshlog_handler.install(address, capture=False)


def installed_with_output(address: str) -> Callable[[], object]:
    return lambda: meshlog_handler.install(address)


def uninstalled(address: str) -> Callable[[], object]:
    meshlog_handler.install(address)
    return meshlog_handler.uninstall


@pytest.mark.usefixtures("real_stdout")
@pytest.mark.parametrize("prepare", [installed, installed_with_output, uninstalled])
def test_an_interrupt_of_a_worker_leaves_no_threads_descriptors_or_handlers(
    prepare: Callable[[str], Callable[[], object]], address: str
) -> None:
    def state() -> tuple[object, ...]:
        streams = [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)]
        return threading.active_count(), len(os.listdir("/proc/self/fd")), streams, [*logging.root.handlers], logging.root.level

    prepare(address)()
    meshlog_handler.uninstall()
    before = state()
    place = 0
    interrupted = True
    while interrupted:
        interrupted = interrupt_at(place, prepare(address))
        meshlog_handler.uninstall()
        until(lambda: state() == before, what=f"nothing left after place {place}")
        place += 1
    assert place > 5
