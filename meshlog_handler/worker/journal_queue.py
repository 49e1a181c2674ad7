"""JournalQueue: the queue of a client, for programs that follow the logging cookbook.

::

    QueueHandler(client.queue) -> JournalQueue.put_nowait -> the journal of this process -> LogClient
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

from ..errors import ClosedError
from . import membership

_CLIENT_READS: Final = "only the client reads this queue: its handlers get the records that are put into it."


class JournalQueue(queue.Queue[logging.LogRecord]):
    """A queue of log records with one writer in each process, which needs no lock, and with the client as its reader.

    Made by a `LogClient`; picklable for child processes of every start method. Any thread of any process may put records
    into it, by a `logging.handlers.QueueHandler` or by hand. What was put is shown, also when the process is killed at once
    after; a flush of the client covers it.

    In the client's process, and while the client does not run, records are shown at once, on the calling thread.

    Notes
    -----
    A `queue.Queue` by name, as `logging.config` asks of the queue of a `QueueHandler`; none of its locks are used.
    """

    def __init__(self, show: Callable[[logging.LogRecord], object] | None = None, address: str = "") -> None:
        # `queue.Queue.__init__` would make locks: they cannot be pickled, and nobody needs them.
        self.maxsize = 0
        self._show = show
        self._address, self._token = address, ""
        self._member: membership.Membership | None = None
        self._make_locks()

    def _make_locks(self) -> None:
        self._joining = threading.Lock()
        self._pid = os.getpid()

    def open(self, address: str, token: str) -> None:
        """Let the client that runs at `address` read the queue. The client's."""
        self._address, self._token = address, token

    def close(self) -> None:
        """Leave the client, if this process has joined it for this queue alone; the client does so when it ends."""
        if self._show is not None:
            self._address = ""
        member, self._member = self._member, None
        if member is not None and member is not membership.current():
            member.leave()

    def put(self, item: logging.LogRecord, block: bool = True, timeout: float | None = None) -> None:
        """Append a record to the journal. Waits for room as a logging call does, whatever is asked.

        Raises
        ------
        ConnectError
            If the client cannot be reached.
        """
        if self._pid != os.getpid():  # a forked child: to the client it is a process of its own
            self._make_locks()
            self._show, self._token, self._member = None, "", None
        member = self._member
        if member is None or member.left:
            if not self._address:
                if self._show is not None:
                    self._show(item)
                return
            member = self._join()
        if member.stream is not None and not member.stream.append(item):
            last = logging.lastResort  # the client has ended in order; what it would show of any record without a handler
            if last is not None and item.levelno >= last.level:
                last.handle(item)

    def put_nowait(self, item: logging.LogRecord) -> None:
        """Append a record to the journal."""
        self.put(item, block=False)

    def _join(self) -> membership.Membership:
        with self._joining:
            if self._member is None or self._member.left:
                self._member = membership.beside(membership.JoinOptions(self._address, mesh=self._token))
            return self._member

    def get(self, block: bool = True, timeout: float | None = None) -> NoReturn:
        """Raise `ClosedError`: the client reads the queue."""
        raise ClosedError(_CLIENT_READS)

    def get_nowait(self) -> NoReturn:
        """Raise `ClosedError`: the client reads the queue."""
        raise ClosedError(_CLIENT_READS)

    def qsize(self) -> int:
        """Return 0: what was put is the client's."""
        return 0

    def empty(self) -> bool:
        """Return True: there is nothing to get."""
        return True

    def full(self) -> bool:
        """Return False: where there is no room, `put` waits."""
        return False

    def task_done(self) -> None:
        """Do nothing."""

    def join(self) -> None:
        """Do nothing; see `LogClient.flush`."""

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._address:
            raise ClosedError("the queue of a LogClient can be given to other processes while the client runs: call start().")
        return JournalQueue, (None, self._address)
