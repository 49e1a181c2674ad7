"""Helpers for tests of programs that log from many processes: collect the records that a client would show.

::

    with collected() as logs:
        run_workers(initializer=meshlog_handler.install, initargs=(logs.address,))
        logs.flush()
    assert "done" in logs.messages

A `PropagateHandler` passes the records of other processes to tools that listen to this process's loggers, such as pytest's
``caplog``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .client.log_client import LogClient
from .protocol.record import info_of
from .system.waits import check_timeout, deadline_after, monotonic, seconds_until


class RecordCollector(logging.Handler):
    """A handler that keeps every record it gets.

    Any thread may read `records`, a list that only grows until `clear` is called.

    Parameters
    ----------
    level : int or str
        The level of this handler, as for every handler.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self._arrived = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record."""
        with self._arrived:
            self.records.append(record)
            self._arrived.notify_all()

    def clear(self) -> None:
        """Remove all records."""
        with self._arrived:
            self.records.clear()

    @property
    def messages(self) -> list[str]:
        """The text of each record."""
        return [record.getMessage() for record in tuple(self.records)]

    def of_rank(self, rank: int | None) -> list[logging.LogRecord]:
        """Return the records of one rank, including aggregated records that the rank contributed to."""
        return [
            record for record in tuple(self.records) if info_of(record).rank == rank or rank in (info_of(record).ranks or ())
        ]

    def wait_for(
        self, condition: Callable[[list[logging.LogRecord]], bool], timeout: float | None = 10.0
    ) -> list[logging.LogRecord]:
        """Wait until `condition` is true for the records so far, and return them.

        Parameters
        ----------
        condition : Callable[[list[logging.LogRecord]], bool]
            Called with all records so far, at once and after each new record.
        timeout : float or None
            Seconds to wait at most; None is unlimited.

        Returns
        -------
        list of logging.LogRecord
            A copy of the records.

        Raises
        ------
        TimeoutError
            If `condition` is still false after `timeout` seconds. The message shows the last records.
        """
        deadline = deadline_after(check_timeout(timeout))
        with self._arrived:
            if not self._wait_until(condition, deadline):
                last = "\n  ".join(record.getMessage() for record in self.records[-20:])
                count = len(self.records)
                raise TimeoutError(f"condition still false after {timeout} s, with {count} records; the last:\n  {last}")
            return list(self.records)

    def _wait_until(self, condition: Callable[[list[logging.LogRecord]], bool], deadline: float) -> bool:
        while not condition(self.records):
            if not self._arrived.wait(seconds_until(deadline)) and monotonic() >= deadline:
                return False
        return True


class PropagateHandler(logging.Handler):
    """A handler of a client that passes each record to the logger of the same name in this process.

    It serves tools that listen to the loggers of this process, such as pytest's ``caplog``, and handlers that are configured
    per logger. The levels of the loggers apply. Records that this process logged itself are skipped, because its loggers
    handled them already. Forwarded records are not forwarded again.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record to its logger."""
        if record.process != os.getpid():
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)


class CollectedLogs:
    """The client that `collected` runs, and the records that it has shown.

    `flush` and `environ` are methods of the client; `wait_for`, `of_rank` and `clear` are methods of the collector.
    """

    def __init__(self, client: LogClient, collector: RecordCollector) -> None:
        self.client = client
        self.collector = collector
        self.wait_for = collector.wait_for
        self.of_rank = collector.of_rank
        self.clear = collector.clear
        self.flush = client.flush
        self.environ = client.environ

    @property
    def address(self) -> str:
        """The address by which workers join (see `LogClient.address`)."""
        return self.client.address

    @property
    def records(self) -> list[logging.LogRecord]:
        """The records shown so far."""
        return self.collector.records

    @property
    def messages(self) -> list[str]:
        """The text of each record."""
        return self.collector.messages


@contextmanager
def collected(*, aggregate_window_sec: float | None = None) -> Iterator[CollectedLogs]:
    """Run a client whose records are collected instead of shown.

    Parameters
    ----------
    aggregate_window_sec : float or None
        Seconds in which similar lines become one. None collects each line.

    Yields
    ------
    CollectedLogs
        The client and its records.
    """
    collector = RecordCollector()
    with LogClient(collector, aggregate_window_sec=aggregate_window_sec, job="") as client:
        yield CollectedLogs(client, collector)
