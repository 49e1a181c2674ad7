"""A client that will be killed, and the workers that survive it."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import meshlog_handler
from meshlog_handler.worker import this_process
from tests.process.procs import DEADLINE
from tests.waiting import until

LOGGER = logging.getLogger("orphan")
LATE = 1000


def run_client(connection: Any) -> None:
    """Run a client, send its address, and wait for an answer."""
    with meshlog_handler.LogClient(logging.NullHandler()) as client:
        connection.send(client.address)
        connection.poll(2 * DEADLINE)


def redirect(directory: str, name: str) -> None:
    """Redirect stdout and stderr of this process to files."""
    for fd, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(directory) / f"{name}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, fd)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # open until the process ends
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # as above


def work(address: str, directory: str, name: str, gone: Any, tally: memoryview[float]) -> None:
    """Log as fast as possible until the client is gone; then log and print some more, and end.

    `tally` is shared: the number of records, the longest call in seconds, and the time at which the work was done.
    """
    logging.getLogger().handlers.clear()
    redirect(directory, name)
    meshlog_handler.install(address)
    LOGGER.warning("early %s", name)
    member = this_process.current()
    assert member is not None

    def log(kind: str) -> None:
        begun = time.monotonic()
        LOGGER.info("%s %s", kind, "x" * 100)
        tally[1] = max(tally[1], time.monotonic() - begun)
        tally[0] += 1

    while not gone.is_set():
        log("under load")
    for _ in range(LATE):
        log("late")
    until(lambda: member.stream is not None and member.stream.client_gone, DEADLINE)  # on a busy machine, it knows later
    LOGGER.warning("late %s", name)
    print(f"printed {name}")
    tally[2] = time.time()


def tallies(count: int) -> list[memoryview[float]]:
    """Return memory for the tallies of `count` workers, shared with processes that are forked from this one."""
    memory = memoryview(mmap.mmap(-1, count * 24)).cast("d")
    return [memory[begin : begin + 3] for begin in range(0, count * 3, 3)]
