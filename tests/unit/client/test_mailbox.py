"""Calls to the client's thread: run in order, refused after the end, and never a byte into somebody else's descriptor."""

from __future__ import annotations

import os
import queue
from concurrent.futures import Future

import pytest

from meshlog_handler.client.mailbox import Mailbox
from meshlog_handler.errors import ClosedError


def test_calls_run_in_their_order_and_say_what_came_of_them() -> None:
    commands = Mailbox(queue.SimpleQueue())
    ran: list[int] = []
    futures = [Future[None]() for _ in range(3)]
    for number, future in enumerate(futures):
        commands.put(lambda number=number: ran.append(number) or 1 / (1 - number), future)  # type: ignore[misc, func-returns-value]
    commands.run()
    assert ran == [0, 1, 2]
    assert [future.result() if future.exception() is None else None for future in futures] == [1.0, None, -1.0]
    assert isinstance(futures[1].exception(), ZeroDivisionError)
    commands.close()


def test_so_many_wake_ups_that_none_fits_are_one_all_the_same() -> None:
    commands = Mailbox(queue.SimpleQueue())
    count = 70_000
    futures = [Future[int]() for _ in range(count)]
    for future in futures:
        commands.put(lambda: 1, future)
    commands.run()
    assert sum(future.result(0) for future in futures) == count
    commands.close()


def test_after_the_end_a_call_is_refused_and_nothing_is_written() -> None:
    commands = Mailbox(queue.SimpleQueue())
    late, later = Future[None](), Future[None]()
    commands.put(lambda: None, late)
    old = commands.fd, commands._write_fd
    commands.close()
    assert isinstance(late.exception(0), ClosedError)
    theirs = os.pipe()  # gets the numbers that have just become free
    try:
        assert theirs == old
        with pytest.raises(ClosedError, match="was stopped"):
            commands.put(lambda: None, later)
        os.set_blocking(theirs[0], False)
        with pytest.raises(BlockingIOError):
            os.read(theirs[0], 1)
    finally:
        for fd in theirs:
            os.close(fd)
