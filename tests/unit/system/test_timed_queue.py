"""TimedQueue: order, and timeouts that hold when signals interrupt the waiting thread."""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from typing import Any

import pytest

from meshlog_handler.system.timed_queue import TimedQueue
from tests.waiting import until


def test_items_come_in_order_and_an_empty_queue_raises() -> None:
    items = TimedQueue[int]()
    for number in range(3):
        items.put_nowait(number)
    assert [items.get(0) for _ in range(3)] == [0, 1, 2]
    for timeout in (0.0, 0.01):
        with pytest.raises(queue.Empty):
            items.get(timeout)
    items.put_nowait(3)
    items.clear()
    with pytest.raises(queue.Empty):
        items.get(0)


def test_a_thread_that_waits_without_limit_gets_each_item() -> None:
    items, got = TimedQueue[int](), list[int]()
    thread = threading.Thread(target=lambda: got.extend(items.get() for _ in range(1000)), daemon=True)
    thread.start()
    for number in range(1000):
        items.put_nowait(number)
        if number % 100 == 0:
            until(lambda: len(got) == number + 1)  # noqa: B023  # it is called at once
    thread.join(10)
    assert got == list(range(1000))


def test_a_signal_handler_can_put_while_its_thread_puts() -> None:
    items = TimedQueue[int]()
    former = signal.signal(signal.SIGALRM, lambda *_: items.put_nowait(-1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(20_000):
            items.put_nowait(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    items.put_nowait(20_000)
    got = list(iter(items.get, 20_000))
    assert [number for number in got if number >= 0] == list(range(20_000))
    assert -1 in got


def test_a_timeout_ends_if_it_passes_after_a_signal_and_before_the_thread_runs_again() -> None:
    """With `queue.SimpleQueue`, it does not end on Python 3.10 to 3.12."""
    items, ended = TimedQueue[Any](), list[int]()

    def wait() -> None:
        for number in range(20):
            try:
                items.get(0.02)
            except queue.Empty:
                ended.append(number)

    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # while this thread computes, no other runs
    try:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert thread.ident
        last = time.monotonic() + 20
        while thread.is_alive() and time.monotonic() < last:
            time.sleep(0.01)  # let the thread wait
            if thread.is_alive():
                signal.pthread_kill(thread.ident, signal.SIGUSR1)
            compute = time.monotonic() + 0.03
            while time.monotonic() < compute:
                continue
    finally:
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGUSR1, former)
    assert ended == list(range(20))
