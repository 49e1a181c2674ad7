"""The same program for every engine: a rank that carries out the test's orders, and the test's end of the connection."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple

from meshlog_handler.worker import this_process

LOGGER = "program"
KILLED_AFTER = 300
DEADLINE = 120.0
_KEY = b"between a test and its ranks"


def obey(place: str) -> None:
    """In a rank: carry out orders until told to end."""
    member = this_process.current()
    assert member is not None, "this process has not joined a client"
    with Client(place, "AF_UNIX", _KEY) as line:
        line.send((member.rank, os.getpid()))
        logger = logging.getLogger(LOGGER)
        while True:
            what, words = line.recv()
            if what == "log":
                logger.log(*words)
            elif what == "print":
                print(words, flush=True)
            elif what == "fail":
                try:
                    raise ValueError(words)
                except ValueError:
                    logger.exception("it went wrong")
            elif what == "die":
                for number in range(KILLED_AFTER):
                    logger.info("last words, %d", number)
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "end":
                return
            line.send("done")


class Rank(NamedTuple):
    """A rank, as seen by the test."""

    line: Connection
    pid: int

    def ask(self, what: str, words: object = None) -> None:
        """Order the rank to do something. Return when it has finished, or at once if it is to die or end."""
        self.line.send((what, words))
        if what not in ("die", "end"):
            assert self.line.poll(DEADLINE), f"process {self.pid} does not answer"
            assert self.line.recv() == "done"


class Commander:
    """Accepts the connections of ranks. Used by one thread."""

    def __init__(self, listener: Listener, place: str, stack: ExitStack) -> None:
        self._listener = listener
        self._stack = stack
        self.place = place
        self.ranks: dict[int, Rank] = {}

    def await_ranks(self, count: int) -> dict[int, Rank]:
        """Wait until `count` ranks have connected; return them by rank."""
        sock: Any = self._listener._listener._socket  # type: ignore[attr-defined]  # the listener has no timeout itself
        deadline = time.monotonic() + DEADLINE
        while len(self.ranks) < count:
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            line = self._stack.enter_context(self._listener.accept())
            rank, pid = line.recv()
            assert rank not in self.ranks, f"two processes are rank {rank}"
            self.ranks[rank] = Rank(line, pid)
        return self.ranks

    def end(self) -> None:
        """End the ranks that are still alive."""
        for rank in self.ranks.values():
            try:
                rank.ask("end")
            except OSError:
                continue  # the rank was killed


@contextmanager
def commander(directory: Path) -> Iterator[Commander]:
    """Listen for connections of ranks."""
    place = str(directory / "line")
    with ExitStack() as stack, Listener(place, "AF_UNIX", authkey=_KEY) as listener:
        yield Commander(listener, place, stack)
