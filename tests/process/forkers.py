"""The code of test processes that fork. Each forked child ends by `os._exit`, like the children of `multiprocessing`."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable

import meshlog_handler

LOGGER = logging.getLogger("forker")


def fork(child: Callable[[], object]) -> int:
    """Run `child` in a forked process, which then exits with 0, or with 1 if `child` raised; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Wait for a child, and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def storm(address: str, count: int) -> None:
    """Fork children that log once while a thread logs in a loop."""
    meshlog_handler.install(address, capture=False)
    stop = threading.Event()

    def loop() -> None:
        number = 0
        while not stop.is_set():
            LOGGER.info("loop %d", number)
            number += 1
            stop.wait(0.0002)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        pids = [fork(lambda: LOGGER.info("child of %d", os.getppid())) for _ in range(count)]
        assert [wait(pid) for pid in pids] == [0] * count
    finally:
        stop.set()
        thread.join()
    LOGGER.info("parent")


def generations(address: str, depth: int) -> None:
    """Log, fork a child that does the same, and log again."""
    meshlog_handler.install(address)
    descend(depth)


def descend(depth: int) -> None:
    """Run `generations` in a process that has joined, or that inherits the membership."""
    LOGGER.info("before %d", depth)
    os.write(1, b"printed %d\n" % depth)
    if depth:
        assert wait(fork(lambda: descend(depth - 1))) == 0
    LOGGER.info("after %d", depth)


def silent_children(address: str, count: int) -> None:
    """Let children inherit a journal with records, and end without logging; log more without waiting for them."""
    meshlog_handler.install(address)
    for number in range(1000):
        LOGGER.info("number %d", number)
    for _ in range(count):
        fork(lambda: None)
    for number in range(1000, 2000):
        LOGGER.info("number %d", number)
