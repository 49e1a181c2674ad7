"""The code of the worker processes of these tests, in a module that every start method can import."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

import meshlog_handler
from meshlog_handler.worker import this_process
from tests.process.procs import DEADLINE
from tests.waiting import until

NAME = "worker"

ENDINGS = {"return": 0, "os._exit": 0, "SIGKILL": -signal.SIGKILL}
"""The ways in which a worker ends, with their exit codes."""


def end(how: str) -> None:
    """End this process in one of the `ENDINGS`, at once."""
    if how == "os._exit":
        os._exit(0)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


def log_numbered(address: str, count: int, ending: str, ready: Any = None, go: Any = None) -> None:
    """Log numbers from 0, then end. With the semaphores `ready` and `go`: join, release `ready`, and wait for `go` first."""
    meshlog_handler.install(address)
    if ready is not None:
        ready.release()
        assert go.acquire(timeout=DEADLINE)
    logger = logging.getLogger(NAME)
    for number in range(count):
        logger.info("number %d", number)
    end(ending)


def log_until(address: str, counts: Any, place: int) -> None:
    """Log numbers from 0, in bursts, until ``counts[0]``; the shared ``counts[place]`` counts the calls that have returned."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger(NAME)
    while not counts[0]:
        for _ in range(20):
            logger.info("number %d", counts[place])
            counts[place] += 1
        time.sleep(0.005)


def log_without_a_journal(address: str, count: int) -> None:
    """Log numbers while no file takes a byte, then kill this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    log_numbered(address, count, "SIGKILL")


def log_while_interrupted(address: str, count: int) -> None:
    """Log numbers. After each, a signal interrupts the thread that ships them, which cannot go on for a while. Then pause."""
    meshlog_handler.install(address, capture=False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    (forwarder,) = (thread.ident for thread in threading.enumerate() if thread.name == "meshlog-forwarder")
    assert forwarder is not None
    sys.setswitchinterval(10)  # while this thread computes, no other runs
    for number in range(count):
        logging.getLogger(NAME).info("number %d", number)
        time.sleep(0.001)  # the record is shipped; more may follow
        signal.pthread_kill(forwarder, signal.SIGUSR1)
        over = time.monotonic() + 0.01
        while time.monotonic() < over:
            continue
    signal.pause()


def log_at_each_go(address: str, ready: Any, go: Any, done: Any, count: int = 1) -> None:
    """Join and log once; then log once more each time `go` is released, and release `done` after each record."""
    meshlog_handler.install(address, capture=False)
    logger = logging.getLogger(NAME)
    logger.info("early")
    ready.release()
    for number in range(count):
        assert go.acquire(timeout=DEADLINE)
        logger.info("late %d", number)
        done.release()


def log_in_turn(address: str, index: int, turns: list[Any], count: int, ready: Any, shipped: Any) -> None:
    """Log `count` records, each after a record of the previous worker; release `shipped` when all were shipped."""
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
    """Wait until all records in the journal of this process have been shipped."""
    member = this_process.current()
    assert member is not None
    stream = member.stream
    assert stream is not None
    until(lambda: stream.idle and stream.journal.unshipped(1) is None, DEADLINE, "the journal to be shipped")


def greet(number: int) -> int:
    """Log and print once; return the pid of this process."""
    logging.getLogger(NAME).warning("greeting %d", number)
    print(f"printed {number}")
    return os.getpid()


def greet_from(address: str, number: int, rank: int | None = None) -> None:
    """Install with a rank, and greet."""
    meshlog_handler.install(address, rank=rank)
    greet(number)


def print_when_told(address: str, go: Any) -> None:
    """Wait for `go`, join with capture, and print."""
    assert go.acquire(timeout=DEADLINE)
    meshlog_handler.install(address)
    print("printed", flush=True)


def greet_slowly(number: int, arrived: Any, go: Any) -> int:
    """Greet, then wait for `go`, so that no worker takes two tasks."""
    pid = greet(number)
    arrived.release()
    assert go.acquire(timeout=DEADLINE)
    return pid


def install_twice(address: str) -> None:
    """Install, greet, install again, and greet again."""
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
