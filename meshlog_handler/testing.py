"""For tests of programs that log from many processes: collect what the client would show.

::

    with collected() as logs:
        run_workers(initializer=meshlog_handler.install, initargs=(logs.address,))
        logs.flush()
    assert "done" in logs.messages

What collects records of this process's loggers, such as pytest's ``caplog``, gets those of others by a `PropagateHandler`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .client.log_client import LogClient
from .protocol.record import info_of
from .system.waits import deadline_after, monotonic, seconds_until


class RecordCollector(logging.Handler):
    """A handler that keeps every record it gets.

    Any thread may read `records`, a list that only grows until `clear`.
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
        """Forget the records."""
        with self._arrived:
            self.records.clear()

    @property
    def messages(self) -> list[str]:
        """The text of each record."""
        return [record.getMessage() for record in tuple(self.records)]

    def of_rank(self, rank: int | None) -> list[logging.LogRecord]:
        """Return the records of one rank; aggregated ones that it had part in, too."""
        return [
            record for record in tuple(self.records) if info_of(record).rank == rank or rank in (info_of(record).ranks or ())
        ]

    def wait_for(self, condition: Callable[[list[logging.LogRecord]], bool], timeout: float = 10.0) -> list[logging.LogRecord]:
        """Wait until `condition` holds for the records so far, and return them.

        Raises
        ------
        TimeoutError
            After `timeout` seconds; the message shows the last records.
        """
        deadline = deadline_after(timeout)
        with self._arrived:
            while not condition(self.records):
                if not self._arrived.wait(seconds_until(deadline)) and monotonic() >= deadline:
                    last = "\n  ".join(record.getMessage() for record in self.records[-20:])
                    count = len(self.records)
                    raise TimeoutError(f"after {timeout} s the {count} records are not those waited for; the last:\n  {last}")
            return list(self.records)


class PropagateHandler(logging.Handler):
    """A client's handler that gives each record to this process's logger of the same name, as if it had been logged here.

    For what listens to the loggers of this process: pytest's ``caplog``, or handlers that are configured by logger. Levels
    count as they do for what is logged here. Records that this process has logged itself are left out: its loggers have
    had them. Nothing that was relayed is forwarded again.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Give the record to its logger."""
        if record.process != os.getpid():
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)


class CollectedLogs:
    """What `collected` yields: the client, and what it has shown."""

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
        """What workers join by (see `LogClient.address`)."""
        return self.client.address

    @property
    def records(self) -> list[logging.LogRecord]:
        """The records shown so far."""
        return self.collector.records

    @property
    def messages(self) -> list[str]:
        """Their texts."""
        return self.collector.messages


@contextmanager
def collected(*, aggregate_window_sec: float | None = None) -> Iterator[CollectedLogs]:
    """Run a client whose records are collected instead of shown.

    Parameters
    ----------
    aggregate_window_sec : float or None
        Seconds in which similar lines become one; None collects each.
    """
    collector = RecordCollector()
    with LogClient(collector, aggregate_window_sec=aggregate_window_sec) as client:
        yield CollectedLogs(client, collector)
