"""Ctrl-C at every instant of a public call: it reaches the caller, and nothing is left that the next `stop` does not end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
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
    """Make a call, and raise KeyboardInterrupt where it enters the function of this number; return whether it came that far.

    There, among other places, Python looks for signals; between any two lines, as in the middle of a ``with``, it does not.
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
def test_an_interrupt_leaves_nothing(prepare: Callable[[LogClient], Callable[[], object]]) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with contextlib.ExitStack() as stack:
        stack.enter_context(LogClient(RecordCollector()))  # what is loaded at first, and stays
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
    assert place > 10
