"""Workers that lose their connection to the client and continue to run."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

import meshlog_handler
from meshlog_handler.worker import this_process
from tests.process.orphans import redirect
from tests.process.procs import DEADLINE

LOGGER = logging.getLogger("cut off")
MINE = b"mine " * 20_000


def become_another(address: str, unshipped: int) -> None:
    """Log, with the last records only in the journal; then exec a program that does not log and runs until its stdin closes."""
    meshlog_handler.install(address, capture=False)
    LOGGER.info("shipped")
    member = this_process.current()
    assert member is not None
    with member._link._sending:  # keeps the forwarder from shipping: the records are only in the journal then
        for number in range(unshipped):
            LOGGER.info("unshipped %d", number)
        os.execv(sys.executable, [sys.executable, "-c", "import os; os.read(0, 1)"])


def close_all(address: str, directory: str, count: int, closed: Any, go: Any) -> None:
    """Log; close all descriptors (semaphores need none); open files; log more."""
    logging.getLogger().handlers.clear()  # the handlers of a test runner write to descriptors that are closed here
    redirect(directory, "worker")
    meshlog_handler.install(address, capture=False)
    LOGGER.info("number %d", 0)
    os.closerange(3, 200)
    files = []
    for _ in range(40):
        file = tempfile.TemporaryFile()  # noqa: SIM115  # all files are closed below
        file.write(MINE)
        file.flush()
        files.append(file)
    for number in range(1, count):
        LOGGER.info("number %d", number)
    closed.release()
    assert go.acquire(timeout=DEADLINE)
    LOGGER.info("number %d", count)
    for file in files:
        assert os.pread(file.fileno(), len(MINE) + 1, 0) == MINE, "nobody writes to what is not his"
        file.close()
