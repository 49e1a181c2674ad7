"""Processes that lose their connections, because they call exec or close their descriptors, and continue to run."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

import meshlog_handler
from meshlog_handler import LogClient, MeshHandler, handler
from meshlog_handler.worker import this_process
from meshlog_handler.worker.member import Membership
from tests.process.orphans import redirect
from tests.process.procs import DEADLINE
from tests.waiting import until

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


def keep_the_files(kind: str) -> None:
    """Log; close all descriptors; open files; fork; and leave. Check that nobody touches the files."""
    client = None
    if kind == "worker":
        meshlog_handler.install(capture=False)
    elif kind == "client":
        client = LogClient(logging.NullHandler()).start()
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    else:
        window, job = 0.1 if kind == "window" else None, f"cut-off-{os.getpid()}" if kind == "job" else None
        shown_by = logging.StreamHandler(sys.stdout)
        logging.getLogger().addHandler(MeshHandler(handlers=[shown_by], aggregate_window_sec=window, job=job))
    LOGGER.warning("before")
    meshlog_handler.complete()  # else the client's thread may not have it yet
    os.closerange(3, 200)
    files = [tempfile.TemporaryFile(buffering=0) for _ in range(40)]  # noqa: SIM115  # the end of the process closes them
    for file in files:
        file.write(MINE)
    nodes = [os.fstat(file.fileno()).st_ino for file in files]
    pid = os.fork()
    if not pid:
        _check(files, nodes)
        LOGGER.warning("of the child")
        if kind == "job":  # a stream handler shows a record twice if its process ends between this and the note that it did so
            meshlog_handler.complete()
        _check(files, nodes)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child has the files"
    LOGGER.warning("after")
    if client is not None:
        client.stop()
    elif kind == "worker":
        meshlog_handler.uninstall()
    else:
        logging.shutdown()
    _check(files, nodes)


def end_in_a_job() -> None:
    """Show the logs of a job; close all descriptors; and end."""
    logging.getLogger().addHandler(MeshHandler(handlers=[logging.StreamHandler(sys.stdout)], job=f"cut-off-{os.getpid()}"))
    LOGGER.warning("before")
    os.closerange(3, 200)
    LOGGER.warning("after")


def log_while_it_joins_again() -> None:
    """Do the same; "after" is logged when the stream has ended, and its thread has not let this process join again yet."""
    ended, logged = threading.Event(), threading.Event()
    patched: Any = Membership  # in this process, which is of this test
    close = patched._close_all

    def close_late(member: Membership) -> None:
        ended.set()
        logged.wait(DEADLINE)
        close(member)

    patched._close_all = close_late
    logging.getLogger().addHandler(MeshHandler(handlers=[logging.StreamHandler(sys.stdout)], job=f"cut-off-{os.getpid()}"))
    LOGGER.warning("before")
    os.closerange(3, 200)
    assert ended.wait(DEADLINE)
    LOGGER.warning("after")
    logged.set()


class _Held(logging.StreamHandler):  # type: ignore[type-arg]  # it is not subscriptable in Python 3.10
    """Returns from its first call when its client is not to show anything more."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, and wait."""
        super().emit(record)
        client = handler._own_client
        if client is not None and not self.held.is_set():
            self.held.set()
            until(lambda: client._loop.dispatcher.abandoned, DEADLINE, "the client to be abandoned")

    held = threading.Event()


def join_again_while_a_handler_has_a_record() -> None:
    """Show the logs of a job; close all descriptors while the handler has the first record; log again, and end."""
    logging.getLogger().addHandler(MeshHandler(handlers=[_Held(sys.stdout)], job=f"cut-off-{os.getpid()}"))
    LOGGER.warning("before")
    assert _Held.held.wait(DEADLINE)
    os.closerange(3, 200)
    LOGGER.warning("after")


def _check(files: Sequence[IO[bytes]], nodes: Sequence[int]) -> None:
    gc.collect()
    for file, node in zip(files, nodes, strict=True):
        assert os.fstat(file.fileno()).st_ino == node, "it is the same file"
        assert os.pread(file.fileno(), len(MINE) + 1, 0) == MINE, "nobody writes to what is not his"
