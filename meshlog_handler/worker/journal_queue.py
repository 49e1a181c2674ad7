"""JournalQueue: the queue of a client, for programs that use the `QueueHandler` recipe of the logging cookbook.

::

    QueueHandler(client.queue) -> JournalQueue.put_nowait -> the journal of this process -> LogClient
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from ..errors import ClosedError, ConnectError, SettingError
from ..protocol.record import info_of
from ..system.diagnostics import diagnose
from ..system.shielded import run_shielded, run_whole
from ..system.waits import check_timeout, none_if_endless
from . import this_process
from .member import JoinOptions, Membership

_CLIENT_READS: Final = "this queue cannot be read: the client reads it, and its handlers get the records that are put into it."


def _show_as_last_resort(record: logging.LogRecord) -> None:
    """Do as logging does without handlers."""
    last = logging.lastResort
    if last is not None and record.levelno >= last.level:
        last.handle(record)


class JournalQueue(queue.Queue[logging.LogRecord]):
    """A queue of log records: each process appends to its journal without a lock, and the client reads.

    A `LogClient` creates it; it can be pickled for child processes of every start method. Any thread of any process may put
    records into it, with a `logging.handlers.QueueHandler` or directly. The client shows these records even if the process is
    killed right after `put`, and a flush of the client includes them.

    In the client's process, and while the client does not run, records are shown at once, on the calling thread. Without a
    client, it is an ordinary `queue.Queue`, which any `QueueListener` can read.
    """

    def __init__(self, show: Callable[[logging.LogRecord], object] | None = None, address: str = "") -> None:
        self._show = show
        self._address, self._token = address, ""
        self._member: Membership | None = None
        self._refused = False
        self._make_locks()

    def _make_locks(self) -> None:
        super().__init__()
        self._joining = threading.Lock()
        self._pid = os.getpid()

    def serve(self, show: Callable[[logging.LogRecord], object]) -> None:
        """Show by `show` what is put while the client does not run. Called by the client.

        Raises
        ------
        SettingError
            If another client has the queue.
        """
        if self._show is not None or self._address:
            raise SettingError("this JournalQueue is the queue of another LogClient. Create one for each client.")
        self._show = show

    def open(self, address: str, token: str) -> None:
        """Set the address and token of the running client, and show what was put before it had the queue. Called by it."""
        with contextlib.suppress(queue.Empty):  # all of it was taken
            while self._show is not None:
                item = super().get(block=False)
                self.task_done()
                if isinstance(item, logging.LogRecord):
                    self._show(item)
                else:
                    self._refuse(item)
        self._address, self._token = address, token

    def close(self) -> None:
        """Leave the client if this process has joined it for this queue only. The client calls it when it ends."""
        if self._show is not None:
            self._address = ""
        if self._member is not None:
            run_shielded(self._leave)

    def _leave(self) -> None:
        member, self._member = self._member, None
        if member is not None and member is not this_process.current():
            member.leave()

    def put(self, item: logging.LogRecord, block: bool = True, timeout: float | None = None) -> None:
        """Append a record to the journal. What is no record is reported once and left out; None, a listener's sentinel, is not.

        It waits for room as a logging call does; `block` and `timeout` are ignored.

        Raises
        ------
        ConnectError
            If the client cannot be reached.
        """
        if self._pid != os.getpid():  # a forked child joins as a separate process
            self._make_locks()
            self._show, self._token, self._member = self._show and _show_as_last_resort, "", None
        # None also ends a listener that began to read before the client had the queue.
        if item is None or (self._show is None and not self._address):
            return super().put(item, block, timeout)
        if not isinstance(item, logging.LogRecord):
            return self._refuse(item)
        if self._token and hasattr(item, "meshlog") and info_of(item).client == self._token:
            return  # this client has shown it, and a handler of the client has put it here
        member = self._member
        if member is None or member.left:
            if not self._address:
                if self._show is not None:
                    self._show(item)
                return
            if this_process.postpone(lambda: self._put_late(item)):
                return
            member = run_whole(self._join)  # Ctrl-C leaves no membership that `close` does not find
        if member.stream is not None and not member.stream.append(item):
            if member.left:  # another membership has taken its place meanwhile
                return self.put(item)
            _show_as_last_resort(item)  # the client was stopped

    def _put_late(self, item: logging.LogRecord) -> None:
        try:
            self.put(item)
        except ConnectError as failure:
            diagnose(f"a record that was logged during a fork is not forwarded: {failure}")
            _show_as_last_resort(item)

    def _refuse(self, item: object) -> None:
        if item is not None and not self._refused:
            self._refused = True
            diagnose(
                f"a JournalQueue got an item of type {type(item).__name__}, which is left out: expected a record, as "
                "`logging.handlers.QueueHandler` puts it. Further items of other types are not reported."
            )

    def _join(self) -> Membership:
        with self._joining:
            if self._member is None or self._member.left:
                self._member = this_process.beside(JoinOptions(self._address, mesh=self._token))
            return self._member

    def get(self, block: bool = True, timeout: float | None = None) -> logging.LogRecord:
        """Return the next record, if the queue has no client.

        Raises
        ------
        ClosedError
            If it has one: the client reads the queue.
        """
        if self._show is not None or self._address:
            raise ClosedError(_CLIENT_READS)
        return super().get(block, none_if_endless(check_timeout(timeout if block else None)))

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._address:
            raise ClosedError(
                "cannot pickle a JournalQueue without a client that runs. Call the start() of its LogClient first."
            )
        return JournalQueue, (None, self._address)
