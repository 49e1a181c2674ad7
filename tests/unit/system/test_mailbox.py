"""Calls to the client's thread: run in order, refused after the end, and nothing is written to a reused descriptor number."""

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest

from meshlog_handler.errors import ClosedError
from meshlog_handler.system.mailbox import Mailbox


def test_calls_run_in_order_and_pass_on_results_and_exceptions() -> None:
    mailbox = Mailbox("the thread", "owner")
    ran: list[int] = []
    futures = [Future[None]() for _ in range(3)]
    for number, future in enumerate(futures):
        mailbox.put(lambda number=number: ran.append(number) or 1 / (1 - number), future)  # type: ignore[misc, func-returns-value]
    mailbox.run()
    assert ran == [0, 1, 2]
    assert [future.result() if future.exception() is None else None for future in futures] == [1.0, None, -1.0]
    assert isinstance(futures[1].exception(), ZeroDivisionError)
    mailbox.close()


def test_calls_run_when_the_wake_up_pipe_is_full() -> None:
    mailbox = Mailbox("the thread", "owner")
    count = 70_000
    futures = [Future[int]() for _ in range(count)]
    for future in futures:
        mailbox.put(lambda: 1, future)
    mailbox.run()
    assert sum(future.result(0) for future in futures) == count
    mailbox.close()


def test_after_the_end_a_call_is_refused_and_nothing_is_written() -> None:
    mailbox = Mailbox("the thread", "owner")
    late, later = Future[None](), Future[None]()
    mailbox.put(lambda: None, late)
    old = mailbox.fd, mailbox._writer.fd
    mailbox.close()
    assert isinstance(late.exception(0), ClosedError)
    other_pipe = os.pipe()  # reuses the numbers that were just freed
    try:
        assert other_pipe == old
        with pytest.raises(ClosedError, match="was stopped"):
            mailbox.put(lambda: None, later)
        os.set_blocking(other_pipe[0], False)
        with pytest.raises(BlockingIOError):
            os.read(other_pipe[0], 1)
    finally:
        for fd in other_pipe:
            os.close(fd)


def test_a_mailbox_whose_descriptors_the_program_has_closed_touches_none_of_their_numbers() -> None:
    mailbox = Mailbox("the thread", "owner")
    assert mailbox.intact
    old = mailbox.fd, mailbox._writer.fd
    for fd in old:
        os.close(fd)
    assert not mailbox.intact
    other_pipe = os.pipe()  # reuses the numbers
    try:
        assert other_pipe == old
        os.set_blocking(other_pipe[0], False)
        assert not mailbox.intact
        mailbox.wake()
        with pytest.raises(ClosedError):
            mailbox.put(lambda: None)
        mailbox.close()
        with pytest.raises(BlockingIOError):
            os.read(other_pipe[0], 1)
        os.write(other_pipe[1], b"w")
    finally:
        for fd in other_pipe:
            os.close(fd)
