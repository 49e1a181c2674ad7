"""Listening: what a `LogClient` has of `logging.handlers.QueueListener`, with the same meaning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from logging.handlers import QueueListener
from operator import attrgetter
from typing import Any, Final

from ...dispatch.sink import Sink
from ...dispatch.sinks import Sinks
from ...errors import SettingError, quoted
from ...output.console import ConsoleHandler
from ...output.named_handlers import check_handlers
from ...system.shielded import run_whole
from ...worker.journal_queue import JournalQueue
from .queue_reader import QueueReader


class Listening(QueueListener):
    """A `QueueListener` whose handlers are those of `sinks`. Its queue is a `JournalQueue` unless `source` is given."""

    queue: Any
    _own_end: Any = None  # `enqueue_sentinel`, if no subclass of the program overrides it

    def __init__(self, handlers: Sequence[Any], source: Any, respect_handler_level: bool, window: float | None) -> None:
        if source is None and handlers and hasattr(handlers[0], "get") and not hasattr(handlers[0], "handle"):
            source, *handlers = handlers  # as `QueueListener` takes it; `logging.config` passes it so
        self._window = window
        self._respects_level = respect_handler_level
        self._showing: Sequence[Sink] = ()
        self.sinks = Sinks()
        self.console: ConsoleHandler | None = None  # made here if no handlers are given
        self.journal_queue = source if isinstance(source, JournalQueue) else JournalQueue()
        self.journal_queue.serve(self._show_here)
        super().__init__(
            self.journal_queue if source is None else source, *handlers, respect_handler_level=respect_handler_level
        )
        self._readers: list[QueueReader] = []
        self._listening = threading.Lock()
        self._reads_queue = self.queue is not self.journal_queue
        if self._reads_queue:
            self._check_queue(source)

    @property
    def handlers(self) -> tuple[Any, ...]:
        """The handlers that show the records. If none are given, the console, from the start of the client."""
        default = self.sinks.default
        return () if default is None else default.handlers

    @handlers.setter
    def handlers(self, handlers: Sequence[Any]) -> None:
        checked = check_handlers(handlers)
        if self.sinks.default is not None:
            self.sinks.default.handlers = checked
        elif checked:
            self.sinks.set_default(Sink(checked, self._respects_level, self._window))

    @property
    def respect_handler_level(self) -> bool:
        """Whether a handler gets only records of at least its level."""
        return self._respects_level

    @respect_handler_level.setter
    def respect_handler_level(self, respects: bool) -> None:
        self._respects_level = respects
        if self.sinks.default is not None:
            self.sinks.default.respect_handler_level = respects

    def handle(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers. A subclass that overrides this method, or `prepare`, gets every record to show."""
        record = self.prepare(record)
        if self._showing and threading.current_thread() is self._thread:
            for sink in self._showing:
                sink.deliver(record)
        else:
            self._default_sink().show_here(record)

    def listen(self, queue: Any) -> QueueReader:
        """Show the records that any process or thread puts into a queue of the program, too.

        Parameters
        ----------
        queue : queue
            Any object with a method `get`: a `queue.Queue` or `queue.SimpleQueue`, any queue of `multiprocessing` or
            ``multiprocess``, or that of a manager. Nothing else may read it.

        Returns
        -------
        QueueReader
            Its `stop`, or the end of a with statement, ends the reading. Otherwise it ends when the client stops. Before that,
            what was put is shown.

        Raises
        ------
        SettingError
            If it is not a queue, or a `JournalQueue`, which its client reads anyway.

        Notes
        -----
        Any thread may call it. Records have no rank, unless they bring one. `flush` and `stop` wait for what this process has
        put before. What other processes have put may still be in their memory: `multiprocessing.Queue` writes on a thread.
        A writer that is killed at the wrong moment holds the lock of such a queue for ever: nothing comes out of it any more,
        `flush` raises `FlushTimeout`, and `stop` ends after its timeout. `client.queue` has no such lock.
        """
        self._check_queue(queue)
        return run_whole(partial(self._listen, queue))  # after Ctrl-C, a second call returns a reader that reads

    def _listen(self, queue: Any) -> QueueReader:
        with self._listening:
            self._readers[:] = filter(attrgetter("running"), self._readers)
            reader = next((each for each in self._readers if each.queue is queue), None)
            if reader is None:
                reader = QueueReader(queue)
                self._readers.append(reader)
                if self.running:
                    self._read(reader)
            return reader

    @property
    def _overridden(self) -> bool:
        """Whether a subclass, a mock or an instance has another `handle` or `prepare`."""
        return any(getattr(getattr(self, name), "__func__", None) is not own for name, own in _OWN.items())

    def _give(self, sinks: Sequence[Sink], record: logging.LogRecord) -> None:
        """Show a record by `handle`, on the client's thread."""
        self._showing = sinks
        try:
            self.handle(record)
        finally:
            self._showing = ()

    def _show_here(self, record: logging.LogRecord) -> None:
        """Show a record on this thread, because the client does not run."""
        self.handle(record)

    def _default_sink(self) -> Sink:
        """Return the sink of the handlers; if there are none, that of the console."""
        if self.sinks.default is None:
            self.sinks.set_default(Sink((self._make_console(),), self._respects_level, self._window))
        assert self.sinks.default is not None  # just made
        return self.sinks.default

    def _make_console(self) -> ConsoleHandler:
        """Return the console handler. All sinks share one, so that progress bars know about each other's lines."""
        if self.console is None:
            self.console = ConsoleHandler()
        return self.console

    @property
    def running(self) -> bool:
        """Whether the client runs in this process."""
        return False

    def _read(self, reader: QueueReader) -> None:
        """Start a reader."""

    def _start_readers(self) -> None:
        """Read the queues that were given to this client before its start."""
        if self._reads_queue:
            own = getattr(self.dequeue, "__func__", None) is QueueListener.dequeue
            get = None if own else partial(self.dequeue, True)
            own_end = getattr(self.enqueue_sentinel, "__func__", None) is type(self)._own_end
            self._readers.append(QueueReader(self.queue, get, None if own_end else self.enqueue_sentinel))
        for reader in self._readers:
            if reader.running:
                self._read(reader)

    def _check_queue(self, source: object) -> None:
        if isinstance(source, JournalQueue):
            raise SettingError("a JournalQueue is read by its own LogClient. There is nothing to listen to.")
        if not hasattr(source, "get") and getattr(self.dequeue, "__func__", None) is QueueListener.dequeue:
            raise SettingError(
                f"queue={quoted(source)} is not a queue: it has no method `get`. Pass a queue.Queue or a similar one."
            )


def no_queue(job: str) -> str:
    """Return why a client of a job has no queue."""
    return f"job={job!r} and a queue cannot be used together: any process may show the job, and one has the queue. Use job=''."


_OWN: Final = {"handle": Listening.handle, "prepare": QueueListener.prepare}
