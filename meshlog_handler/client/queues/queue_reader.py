"""QueueReader: the thread that reads an ordinary queue for a client, as `logging.handlers.QueueListener` does.

::

    QueueHandler(queue), any process -> queue -> QueueReader thread -> `arrived` -> LogClient thread (see `QueuePeer`)

A queue can hold up every thread that gets or puts: it may be full, or a process was killed while it held the queue's lock. So
only the threads in this file call these methods, and nothing waits for them without a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from logging import LogRecord
from types import TracebackType
from typing import Any, Final

from ...errors import ClosedError
from ...system.diagnostics import diagnose
from ...system.error_reports import ErrorReports, describe
from ...system.futures import Awaited, finished, give
from ...system.shielded import run_shielded
from ...system.waits import LONGEST_SEC, check_timeout, ended, monotonic
from ...worker.record_stream import internal_threads
from .pipe_queue import LIBRARIES, loader_of, putter_of, reader_of

READER_NAME: Final = "meshlog-queue"
PUTTER_NAME: Final = "meshlog-queue-put"

MARK: Final = "meshlog_handler mark"
"""The first item of the tuples that a client puts into a queue: plain data, because a manager's process unpickles it, too."""

END: Final = object()
"""In `QueueReader.arrived`: nothing follows."""

_LIMIT: Final = 2048
_LARGE: Final = 1024  # as many characters of a message count as one item more
_LOOK_SEC: Final = 0.02
_COLLECT_SEC: Final = 0.001  # a pipe holds about 100 records
_PAUSE_SEC: Final = 0.0001
_LONGEST_PAUSE_SEC: Final = 0.01
_JOIN_SEC: Final = 0.25
_OF_GREENLETS: Final = ("gevent", "eventlet")
_STANDARD: Final = ("queue", "_queue", *LIBRARIES)  # modules whose queues take any item
_SHUT_DOWN: Final[type[Exception]] = getattr(queue, "ShutDown", ClosedError)  # Python 3.13


class QueueReader:
    """Reads a queue until `stop`, until the client stops, or until ``None`` is put, which also ends a `QueueListener`.

    `LogClient.listen` returns it. It is a context manager. Any thread may call the methods.

    Attributes
    ----------
    queue : object
        The queue.
    """

    # `get` and `put_end` replace the queue's `get`, and the `put` of the end: methods that a subclass of `LogClient` overrides.
    #
    # The program ends the reader by None; what is behind it stays in the queue, in its order. What the reader itself puts into
    # the queue is a mark, which differs from None, and must not stay there. So, where something may be behind the end, the
    # reader puts one more mark, reads on until that, and puts back what is no mark.

    def __init__(
        self, source: Any, get: Callable[[], object] | None = None, put_end: Callable[[], object] | None = None
    ) -> None:
        self.queue = source
        self.name = f"{type(source).__module__}.{type(source).__qualname__}"
        self._counts_tasks = hasattr(source, "task_done")
        self.arrived: deque[object] = deque()  # the client's thread takes from it
        self.idle = True  # whether the client is to be woken by the next item
        self.behind: Callable[[], bool] = lambda: False  # whether the client has not shown all that was read
        self.over: Future[None] = Awaited()  # done when everything that was read is shown
        self._pid = os.getpid()
        self._get: Callable[[], object] = source.get if get is None else get
        if get is None and self.name.partition(".")[0] in _OF_GREENLETS:
            self._get = partial(source.get, False)  # to wait, it would switch to a greenlet, but this is another thread
        self.overridden = get is not None
        self._put: Callable[[object], object] = lambda item: source.put(item)
        self._read_pipe = None if self.overridden else reader_of(source)
        self._get_some = self._get_one
        self._hurry = threading.Event()  # set while a mark or the end is waited for
        if self._read_pipe is not None:
            self._load = loader_of(source)
            self._put = putter_of(source)
            self._get_some = self._get_from_pipe
        elif type(source) is queue.Queue and not self.overridden and "get" not in vars(source):
            self._get_some = self._get_many
        self._collects = self._get_some != self._get_one
        self._takes_marks = get is None and hasattr(source, "put")
        replaced = getattr(source, "__dict__", {}).keys() & {"get", "put"}
        known = type(source).__module__.partition(".")[0] in _STANDARD and not replaced and self._takes_marks
        # A queue of the program may know only records and None. There, as with a `put_end`, this reader's end is None, too.
        self._end = (MARK, os.urandom(8).hex(), 0) if known and put_end is None else None
        self._last = (*self._end[:2], 1) if self._end is not None else None
        self._put_end = put_end or partial(self._put, self._end)
        self._wake: Callable[[], object] = lambda: None
        self._progress: Callable[[], int] = lambda: 0
        self._late: Callable[[LogRecord], object] = lambda record: None
        self._thread: threading.Thread | None = None
        self._abandoned = False
        self._marked = False  # whether marks of this reader may be behind None
        self._ending = False  # whether no flush puts one any more
        self._read = 0
        self._size = 0
        self._reports = ErrorReports()
        self._room = threading.Event()
        self._lock = threading.Lock()
        self._to_put: deque[Callable[[], object]] = deque()
        self._putter: threading.Thread | None = None
        self._no_thread = False
        self._seen = -1

    def start(self, wake: Callable[[], object], progress: Callable[[], int], late: Callable[[LogRecord], object]) -> None:
        """Start the thread. Called by the client, once.

        `wake` wakes the client's thread, which then takes what has arrived. `progress` returns a number that grows as records
        are shown. `late` gets a record that the queue returns after the client has stopped waiting for it.
        """
        self._wake, self._progress, self._late = wake, progress, late
        # Without a name, the thread would use up a number of the program's Thread-N names.
        thread = threading.Thread(target=self._run, name=READER_NAME, daemon=True)
        with self._lock:
            thread.start()
            self._thread = thread  # not before it has started: `join` would fail

    def stop(self, timeout: float | None = 10.0) -> None:
        """Show everything that this process has put before the call, and stop reading. A second call does nothing.

        Parameters
        ----------
        timeout : float or None
            Seconds without progress; None is unlimited. After that time, for example because a killed writer holds the queue's
            lock, the reader is given up, and what is still in the queue is not shown.
        """
        interrupts: list[BaseException] = []

        def end() -> None:
            end_readers([self], check_timeout(timeout), interrupts)

        run_shielded(end, interrupts.append)

    def __enter__(self) -> QueueReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the reader has not ended. False in a forked child."""
        return not self.over.done() and self._pid == os.getpid()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        internal_threads.add(threading.get_ident())
        library = logging.getLogger(type(self.queue).__module__.partition(".")[0])
        if library.name in LIBRARIES:
            library.addFilter(_is_program)
        try:
            self._read_all()
        finally:
            self._arrive(END)
            internal_threads.discard(threading.get_ident())

    def _read_all(self) -> None:
        reads = self._reads()
        for items in reads:
            ends = (at for at, item in enumerate(items, 1) if item is None or (type(item) is tuple and self._ends(item)))
            end = next(ends, 0)
            behind = items[end:] if end else []
            if end:
                del items[end:]
            if self._abandoned:
                self._show_late(items)
            else:
                self._read += len(items)
                self.arrived.extend(items)
            if self.idle or end or (items and type(items[-1]) is tuple):
                self._hurry.clear()
                self.idle = False
                self._wake_client()
            if end:
                self._leave(behind, reads, by_program=items[-1] is None)
                break
            if len(self.arrived) + self._size >= _LIMIT:
                self._wait_for_room()
            elif self._collects and not self.idle:  # more may come soon, and many items at once cost less
                self._hurry.wait(_COLLECT_SEC)
        self._reports.close()

    def _reads(self) -> Iterator[list[object]]:
        """Yield what is read from the queue, until it can never be read again."""
        failures = 0
        while True:
            try:
                items = self._get_some()
            except BaseException as failure:  # unpickling runs code of the program
                failures += 1
                if self._is_closed(failure):
                    return
                time.sleep(min(_PAUSE_SEC * failures, _LONGEST_PAUSE_SEC))
                continue
            failures = 0
            yield items

    def _ends(self, item: object) -> bool:
        return is_mark(item) and item == self._end

    def _leave(self, behind: list[object], reads: Iterator[list[object]], *, by_program: bool) -> None:
        """Take marks of this reader out of the queue, and put back what else is behind the end."""
        with self._lock:
            self._ending = True
            reads_on = self._last is not None and (bool(behind) or (by_program and self._marked))
        left = behind
        if reads_on:
            left = []
            self._put_soon(partial(self._put, self._last), self._end_here)
            for items in chain([behind], reads):
                self._read += len(items)
                left += items
                if any(is_mark(item) and item == self._last for item in items):
                    break
        for item in left:
            self._put_soon(partial(self._put_back, item), lambda: None)

    def _put_back(self, item: object) -> None:
        if not is_mark(item):
            self._put(item)
        if self._counts_tasks:  # `put` has counted it again
            self._mark_tasks(1)

    def _show_late(self, items: Sequence[object]) -> None:
        """Show records that the queue returned after the client had stopped waiting, except what showing them logs."""
        internal_threads.discard(threading.get_ident())  # handlers get no records on internal threads
        for record in items:
            if isinstance(record, LogRecord) and record.threadName != READER_NAME:
                self._late(record)

    def _get_one(self) -> list[object]:
        """Wait for an item."""
        item = self._get()
        msg = getattr(item, "msg", None)
        if msg.__class__ is str and len(msg) > _LARGE:
            self._size += len(msg) // _LARGE
        return [item]

    def _get_from_pipe(self) -> list[object]:
        """Wait for items; return all that one system call reads."""
        assert self._read_pipe is not None  # see `__init__`
        items: list[object] = []
        for pickle in self._read_pipe():
            try:
                items.append(self._load(pickle))
            except BaseException as failure:
                self._report(failure)
            if len(pickle) > _LARGE:
                self._size += len(pickle) // _LARGE
        return items

    def _get_many(self) -> list[object]:
        """Wait for an item; return it and what is behind it, up to None or a mark."""
        # One by one, `queue.Queue.get` costs as much as everything else together. These names are not documented, but every
        # version of Python has them.
        source = self.queue
        items = [self._get()]
        with source.mutex:
            _move(source.queue, items)
            source.not_full.notify_all()
        return items

    def _report(self, failure: BaseException) -> None:
        self._reports.log(f"an item of the queue {self.name} cannot be read, and is left out", failure)

    def _is_closed(self, failure: BaseException) -> bool:
        """Report why an item cannot be read; return whether the queue can never be read again."""
        if isinstance(failure, queue.Empty):  # a `dequeue` with a timeout, or a queue of greenlets
            return self._abandoned
        if isinstance(failure, _SHUT_DOWN):
            return True
        closed = False
        try:
            self.queue.empty()
        except Exception as unusable:  # the queue was closed, or the process of its manager has ended
            closed = not isinstance(unusable, AttributeError)  # else not a queue, but a source of a subclass's `dequeue`
        if closed:
            diagnose(f"the queue {self.name} is not read any more, because it is closed: {describe(failure)}")
        else:
            self._report(failure)
        return closed or self._abandoned

    def _wait_for_room(self) -> None:
        while len(self.arrived) + self._size >= _LIMIT and not self._abandoned and not self.over.done():
            self._room.clear()
            if len(self.arrived) + self._size >= _LIMIT:
                self._room.wait(LONGEST_SEC)

    def _arrive(self, item: object) -> None:
        self.arrived.append(item)
        self._wake_client()

    def _wake_client(self) -> None:
        with contextlib.suppress(ClosedError):  # the client has ended, and has given this reader up
            self._wake()

    def take(self) -> list[object]:
        """Return what has arrived, and make room. Called on the client's thread."""
        arrived = self.arrived
        taken = [arrived.popleft() for _ in range(len(arrived))]
        self._size = 0
        self._room.set()
        return taken

    def mark_done(self, count: int) -> None:
        """Call the queue's `task_done` for items that are shown. Called on the client's thread."""
        source = self.queue
        if type(source) is queue.Queue:  # see `_get_many`
            with source.all_tasks_done:
                source.unfinished_tasks = max(0, source.unfinished_tasks - count)
                if not source.unfinished_tasks:
                    source.all_tasks_done.notify_all()
        elif self._counts_tasks:
            self._put_soon(partial(self._mark_tasks, count), lambda: None)  # it takes a lock that a killed process may hold

    def _mark_tasks(self, count: int) -> None:
        with contextlib.suppress(Exception):  # the program calls it, too; or the process of the manager has ended
            for _ in range(count):
                self.queue.task_done()

    # -- marks, and the end ----------------------------------------------------------------------------------------

    def put_mark(self, token: str, version: int) -> None:
        """Put the mark of a flush into the queue, behind what this process has put before. Never blocks. Any thread."""
        mark = (MARK, token, version)
        if self._takes_marks:
            self._put_mark(partial(self._put, mark), lambda: self._arrive(mark))
        elif not self._ending:
            self._arrive(mark)

    def end_soon(self) -> None:
        """Make the thread end after everything that this process has put so far. Never blocks."""
        with self._lock:
            started = self._thread is not None
        if started:
            self._put_mark(self._put_end, self._end_here, last=True)
        else:
            give(self.over, None)

    def _put_mark(self, put: Callable[[], object], instead: Callable[[], object], *, last: bool = False) -> None:
        """Put a mark of this reader, unless the last one is put: it would stay in the queue, and the end completes a flush."""
        with self._lock:
            if self._ending:
                return
            self._marked = True
            self._ending = last
            self._to_put.append(partial(self._put_safely, put, instead))
        self._start_putter()

    def _put_soon(self, put: Callable[[], object], instead: Callable[[], object]) -> None:
        """Call `put` on another thread, after earlier calls. If it fails, call `instead`."""
        with self._lock:
            self._to_put.append(partial(self._put_safely, put, instead))
        self._start_putter()

    def _put_safely(self, put: Callable[[], object], instead: Callable[[], object]) -> None:
        try:
            put()
        except BaseException as failure:
            self._reports.log(f"nothing can be put into the queue {self.name}, so it is not read to its end", failure)
            instead()

    def _start_putter(self) -> None:
        self._hurry.set()
        with self._lock:
            if self._putter is not None or not self._to_put:
                return
            putter = threading.Thread(target=self._put_all, name=PUTTER_NAME, daemon=True)
            try:
                putter.start()
            except RuntimeError:  # the interpreter exits: see `look`
                self._no_thread = True
            self._putter = putter  # not before it has started: `join` would fail

    def _put_all(self) -> None:
        internal_threads.add(threading.get_ident())
        while True:
            with self._lock:
                if not self._to_put:
                    self._putter = None
                    break
                put = self._to_put.popleft()
            put()
        internal_threads.discard(threading.get_ident())

    def look(self) -> None:
        """End when the queue is empty, and nothing came since the last look, if at exit no thread can put the end."""
        if self._no_thread and not self.arrived:
            seen, self._seen = self._seen, self._read
            with contextlib.suppress(Exception):  # the thread reports that the queue is closed
                if seen == self._read and self.queue.empty():
                    self._end_here()

    def _end_here(self) -> None:
        """End although the thread waits for the queue. A record that the queue returns later is shown at once."""
        self._abandoned = True
        self._room.set()
        self._arrive(END)

    def give_up(self, *, report: bool = True) -> None:
        """Stop waiting for the queue."""
        if hasattr(self.queue, "cancel_join_thread"):
            self.queue.cancel_join_thread()  # else the exit of this process waits for the same lock
        if report and not self._no_thread:
            diagnose(
                f"the queue {self.name} was not read to its end: no item came out of it, and so none of those put last. "
                f"A process that was killed while it used the queue may hold its lock."
            )
        self._end_here()
        give(self.over, None)

    @property
    def progress(self) -> tuple[int, int]:
        """A value that changes as items are read and, if they are all that is waited for, shown."""
        return self._read, self._progress() if self.arrived or self.behind() else 0

    def join(self) -> None:
        """Wait shortly for threads that are about to end."""
        for thread in (self._thread, self._putter):
            if thread is not None and not self._abandoned and not self._no_thread:
                ended(thread, _JOIN_SEC)


def _move(waiting: deque[object], items: list[object]) -> None:
    while waiting and len(items) < _LIMIT and items[-1] is not None and type(items[-1]) is not tuple:
        items.append(waiting.popleft())


def _is_program(record: LogRecord) -> bool:
    """Return whether the program logs, and not a library that a thread of this package calls.

    A filter that stays on the loggers of queues. What `put` logs on a thread of this package, a handler of the root logger
    might put into the same queue, again and again.
    """
    return threading.get_ident() not in internal_threads


def is_mark(item: object) -> bool:
    """Return whether a client has put this item. Any other item may compare in any way."""
    return type(item) is tuple and len(item) == 3 and type(item[0]) is str and item[0] == MARK


def end_readers(readers: Sequence[QueueReader], timeout: float, interrupts: Sequence[BaseException] = ()) -> None:
    """Show what is in the queues, and end their readers; give up those that make no progress for `timeout` seconds.

    An item in `interrupts`, which another thread may append, ends the wait.
    """
    waiting = [reader for reader in readers if reader.running]
    for reader in waiting:
        reader.end_soon()
    since = dict.fromkeys(waiting, monotonic())
    before = {reader: reader.progress for reader in waiting}
    while waiting and not interrupts:
        finished(waiting[0].over, _LOOK_SEC)
        for reader in waiting:
            reader.look()
            now, progress = monotonic(), reader.progress
            if progress != before[reader]:
                since[reader], before[reader] = now, progress
            elif now - since[reader] >= timeout and reader.running:
                reader.give_up()
        waiting = [reader for reader in waiting if reader.running]
    for reader in waiting:
        reader.give_up(report=False)
    for reader in readers:
        reader.join()
