"""A client that is going to be killed, and the workers that survive it."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import meshlog_handler
from tests.process.procs import DEADLINE

LOGGER = logging.getLogger("orphan")
LATE = 1000


def run_client(connection: Any) -> None:
    """Run a client, tell its address, and wait for an answer."""
    with meshlog_handler.LogClient(logging.NullHandler()) as client:
        connection.send(client.address)
        connection.poll(2 * DEADLINE)


def redirect(directory: str, name: str) -> None:
    """Let this process's stdout and stderr lead to files."""
    for fd, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(directory) / f"{name}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, fd)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # as above


def work(address: str, directory: str, name: str, gone: Any, tally: memoryview[float]) -> None:
    """Log as fast as can be until the client is gone; log and print some more, and end.

    `tally` is shared: how many were logged, the longest call in seconds, and when all was done.
    """
    logging.getLogger().handlers.clear()
    redirect(directory, name)
    meshlog_handler.install(address)
    LOGGER.warning("early %s", name)

    def log(kind: str) -> None:
        begun = time.monotonic()
        LOGGER.info("%s %s", kind, "x" * 100)
        tally[1] = max(tally[1], time.monotonic() - begun)
        tally[0] += 1

    while not gone.is_set():
        log("under load")
    for _ in range(LATE):
        log("late")
    LOGGER.warning("late %s", name)
    print(f"printed {name}")
    tally[2] = time.time()


def tallies(count: int) -> list[memoryview[float]]:
    """Return memory for the tallies of so many workers, which processes forked from this one share."""
    memory = memoryview(mmap.mmap(-1, count * 24)).cast("d")
    return [memory[begin : begin + 3] for begin in range(0, count * 3, 3)]
