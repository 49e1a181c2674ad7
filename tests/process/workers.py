"""What the worker processes of these tests do. Importable, so that every start method finds it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
from typing import Any

import meshlog_handler
from meshlog_handler.worker import membership
from tests.process.procs import DEADLINE
from tests.waiting import until

NAME = "worker"

ENDINGS = {"return": 0, "os._exit": 0, "SIGKILL": -signal.SIGKILL}
"""How a worker ends, and with which exit code."""


def end(how: str) -> None:
    """End this process in one of the `ENDINGS`, at once."""
    if how == "os._exit":
        os._exit(0)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


def log_numbered(address: str, count: int, ending: str, ready: Any = None, go: Any = None) -> None:
    """Log numbers from 0, then end. With `ready` and `go`, semaphores: join, say so, and wait to be let go."""
    meshlog_handler.install(address)
    if ready is not None:
        ready.release()
        assert go.acquire(timeout=DEADLINE)
    logger = logging.getLogger(NAME)
    for number in range(count):
        logger.info("number %d", number)
    end(ending)


def log_until(address: str, counts: Any, place: int) -> None:
    """Log numbers from 0, in bursts, until ``counts[0]``; ``counts[place]``, shared, says how many calls have returned."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger(NAME)
    while not counts[0]:
        for _ in range(20):
            logger.info("number %d", counts[place])
            counts[place] += 1
        time.sleep(0.005)


def log_without_a_journal(address: str, count: int) -> None:
    """Log numbers where no file takes a byte, then die."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    log_numbered(address, count, "SIGKILL")


def log_at_each_go(address: str, ready: Any, go: Any, done: Any, count: int = 1) -> None:
    """Join and log once; then log once more each time `go` lets it; tell after each."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger(NAME)
    logger.info("early")
    ready.release()
    for number in range(count):
        assert go.acquire(timeout=DEADLINE)
        logger.info("late %d", number)
        done.release()


def log_in_turn(address: str, index: int, turns: list[Any], count: int, ready: Any, shipped: Any) -> None:
    """Log `count` records, each after a record of the worker before; tell when all were shipped."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger(NAME)
    ready.release()
    for number in range(count):
        assert turns[index].acquire(timeout=DEADLINE)
        logger.info("turn %d", number * len(turns) + index)
        turns[(index + 1) % len(turns)].release()
    wait_shipped()
    shipped.release()


def wait_shipped() -> None:
    """Wait until nothing in this process's journal waits to be shipped."""
    member = membership.current()
    assert member is not None
    stream = member.stream
    assert stream is not None
    until(lambda: stream.idle and stream.journal.unshipped(1) is None, DEADLINE, "the journal to be shipped")


def greet(number: int) -> int:
    """Log and print once; return this process's id."""
    logging.getLogger(NAME).warning("greeting %d", number)
    print(f"printed {number}")
    return os.getpid()


def greet_from(address: str, number: int, rank: int | None = None) -> None:
    """Install under a rank, and greet."""
    meshlog_handler.install(address, rank=rank)
    greet(number)


def print_when_told(address: str, go: Any) -> None:
    """Join once `go` lets it, captured, and print."""
    assert go.acquire(timeout=DEADLINE)
    meshlog_handler.install(address)
    print("printed", flush=True)


def be_turned_away(address: str, go: Any) -> None:
    """Try to join once `go` lets it: the client hangs up, and does not leave it to a timeout."""
    assert go.acquire(timeout=DEADLINE)
    try:
        membership.join(membership.JoinOptions(address))
    except meshlog_handler.ConnectError as refused:
        if isinstance(refused.__cause__, (EOFError, ConnectionError)):
            return
        raise
    raise AssertionError("it was let in")


def greet_slowly(number: int, arrived: Any, go: Any) -> int:
    """Greet, then wait with the other workers: no one of them takes two."""
    pid = greet(number)
    arrived.release()
    assert go.acquire(timeout=DEADLINE)
    return pid


def install_twice(address: str) -> None:
    """Install, greet, install again, greet."""
    meshlog_handler.install(address)
    greet(0)
    before = [os.fstat(fd).st_ino for fd in (1, 2)]
    meshlog_handler.install(address)
    os.environ["MESHLOG_ADDRESS"] = address
    meshlog_handler.install()
    assert [os.fstat(fd).st_ino for fd in (1, 2)] == before
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, meshlog_handler.MeshHandler)]
    assert len(handlers) == 1
    greet(1)
