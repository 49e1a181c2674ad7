"""A member of a client can change its coordinates, and learns when the client has ended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from typing import Any

import pytest

from meshlog_handler import LogClient, install, uninstall
from meshlog_handler.testing import collected
from meshlog_handler.worker import this_process

from .procs import DEADLINE, join_all, started
from .workers import wait_shipped

COUNTER = {"node": "here", "actor": "Counter"}


def log_under_two_names(address: str, ready: Any, go: Any) -> None:
    """Log without coordinates, then with new ones; a child that is forked later logs too."""
    install(address)
    member = this_process.current()
    assert member is not None
    logging.warning("nobody")
    wait_shipped()
    ready.release()
    assert go.acquire(timeout=DEADLINE)
    member.relabel(COUNTER)
    logging.warning("an actor")
    child = os.fork()
    if child == 0:
        logging.warning("its child")
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.usefixtures("real_stdout")
def test_records_have_the_new_coordinates_right_after_a_relabel() -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs, started("spawn", log_under_two_names, [(logs.address, ready, go)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        logs.flush()
        before = [dict(vars(record)["coords"]) for record in logs.records]
        go.release()
        join_all(procs)
        logs.flush()
        after = [(record.getMessage(), vars(record)["coords"]) for record in logs.records[1:]]
    assert before == [{}]
    assert after == [("an actor", COUNTER), ("its child", COUNTER)]


def log_until_lost(address: str, ready: Any, lost: Any) -> None:
    """Join, and report the end of the client with a callback from before the end and one from after it."""
    install(address)
    member = this_process.current()
    assert member is not None
    gone = threading.Event()
    member.when_lost(gone.set)
    ready.release()
    assert gone.wait(DEADLINE)
    member.when_lost(lost.release)


@pytest.mark.usefixtures("real_stdout")
def test_a_member_learns_that_its_client_has_ended_even_if_it_asks_later() -> None:
    context = multiprocessing.get_context("spawn")
    ready, lost = context.Semaphore(0), context.Semaphore(0)
    with collected() as logs, started("spawn", log_until_lost, [(logs.address, ready, lost)]) as procs:
        assert ready.acquire(timeout=DEADLINE)
        logs.client.stop()
        assert lost.acquire(timeout=DEADLINE)
        join_all(procs)


def thread_number() -> int:
    """Return the number that the next thread without a name gets."""
    return int(threading.Thread().name.partition("-")[2].partition(" ")[0])


@pytest.mark.usefixtures("restored_logging")
def test_our_threads_do_not_change_the_numbers_in_thread_names_of_the_program() -> None:
    """The threads of a program have the same names with this package and without it."""
    before = thread_number()
    with LogClient(logging.NullHandler()) as client:
        install(client.address, capture=False)
        try:
            logging.getLogger("app").warning("forwarded")
            client.flush()
        finally:
            uninstall()
    assert thread_number() == before + 1
