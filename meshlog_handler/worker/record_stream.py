"""A process's own stream of records: the journal it appends to, and what happens when that is full or has no reader.

Used by any thread, signal handler or finalizer that logs. The lock is taken only to change segments, by one thread at a
time and by what interrupts it there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, NoReturn

from ..errors import SettingError
from ..journal.side_files import SideFiles
from ..journal.writer import Appender, Journal
from ..protocol.encode import EncodedRecord, RecordEncoder, SchemaTable, encode_record
from ..protocol.entries import FLUSH, LARGE, number_entry
from ..system.fd_capture import diagnose
from ..system.waits import monotonic

OnFull = Literal["block", "drop"]

internal_threads: Final[set[int]] = set()
"""Identifiers of this package's threads. What they log is never forwarded: a handler that logs would feed itself."""

# A thread of a forked child may get the identifier that one of the parent's had.
transport_threads: Final[set[int]] = set()
"""Those of them that carry a proc's records and orders. They log nothing themselves, but the garbage collector may run a
program's finalizers there, which do: that is forwarded, but it waits for nothing."""

os.register_at_fork(after_in_child=internal_threads.clear)
os.register_at_fork(after_in_child=transport_threads.clear)


def is_own(record: logging.LogRecord) -> bool:
    """Tell whether a record was logged on a thread of this package, and so must not be forwarded.

    The current thread decides, for ``logging.logThreads`` can be off. A record that a queue has brought to another thread of
    the same process still names its own.
    """
    current = threading.get_ident()
    if current in internal_threads:
        return current not in transport_threads
    thread = record.thread
    return thread in internal_threads and thread not in transport_threads and record.process == os.getpid()


def _nowhere_here(_: logging.LogRecord) -> bool:
    return False


show_late: Callable[[logging.LogRecord], bool] = _nowhere_here
"""Lets console handlers that were quiet about a record show it after all, for it was not forwarded; tells whether some did."""

shown_here: Callable[[logging.LogRecord], bool] = _nowhere_here
"""Tells whether a handler of the program shows a record in this process: then nobody says it in its place. See `quiet`."""

BLOCK_SEC: Final = 10.0
"""Seconds a logging call waits, at most, while the client lives but neither makes room nor says that it gets on."""

_LOOK_SEC: Final = 0.2  # a forwarder whose thread was killed meanwhile is found after so long

_SIDE_FACTOR: Final = 4  # bytes of unread side files, to those of the journal


def check_on_full(policy: str) -> OnFull:
    """Return `policy` if it is one; `SettingError` names the valid ones otherwise."""
    if policy not in ("block", "drop"):
        raise SettingError(f"on_full={policy!r} is no policy. Valid: 'block' (wait for a live client, bounded) or 'drop'.")
    return policy  # type: ignore[return-value]  # one of the two


def _nowhere(_: object) -> NoReturn:
    raise ValueError


_CLOSED: Final[Appender] = (SchemaTable(), _nowhere, _nowhere)
"""No shape is known here, so that every record takes the slow path."""


class _Ended(Exception):
    """The stream takes no more records."""


_streams: Final[weakref.WeakSet[RecordStream]] = weakref.WeakSet()
_forking: Final[set[int]] = set()
"""The threads that fork. Meanwhile no call takes the fast path: the program's own hooks may log in the child before ours run,
and what they appended would be written over what the parent appends, for the journal is shared."""


class RecordStream:
    """One process's records, in the order of their logging calls.

    Parameters
    ----------
    journal : Journal
        Where they go.
    on_full : {"block", "drop"}
        When every segment is full of records that were not shipped: wait for room for as long as the client
        gets on (see `BLOCK_SEC`), or drop at once. Both count what they drop, exactly.
    wake : Callable[[], None]
        Wakes the forwarder; called when it is `idle`.
    """

    def __init__(self, journal: Journal, on_full: OnFull, wake: Callable[[], None]) -> None:
        self.journal = journal
        # Without a file nothing outlives the process: every call takes the slow path, which sees it shipped.
        self.appender = _CLOSED
        self.on_full = on_full
        self.idle = True
        self.client_gone = False
        self.ended = False
        self.pid = os.getpid()
        self.wake = wake
        self._lock = threading.RLock()
        self._waiting: deque[threading.Lock] = deque()
        self._starved = False
        self.moves = 0
        self._sentinels: deque[bytes] = deque()
        self._unshipped: deque[threading.Event] = deque()
        self._sides = SideFiles(journal.path, _SIDE_FACTOR * journal.size) if journal.path is not None else None
        _streams.add(self)
        self.open_fast_path()

    def open_fast_path(self) -> None:
        """Let calls append without looking whose stream it is; not while a thread forks, and not once the client is gone."""
        if self.journal.path is not None and not (self.client_gone or self.ended or _forking):
            self.appender = self.journal.appender
            if self.client_gone or self.ended or _forking:  # since the line before
                self.appender = _CLOSED

    def append(self, record: logging.LogRecord, route: object = None, texts: object = ()) -> bool:
        """Append any record, with its route and what formatters made of it; where the fast path of `MeshHandler` cannot.

        False if the stream has ended: then nothing was appended or counted, and the record is this process's own to show.
        """
        if is_own(record):
            return True
        if threading.get_ident() in transport_threads:
            return self._append_in_passing(record, route)
        if self.client_gone and record.levelno >= logging.WARNING and not shown_here(record):
            diagnose(f"{record.levelname} {record.name}: {_safe_message(record)}")
        # The fast path tells threads apart by the shape of their records. Where the shape has no thread, and own threads call
        # a program's handlers, every record takes the slow path, which looks.
        alike = record.thread is None and not internal_threads <= transport_threads
        try:
            self.append_encoded(record.levelno, RecordEncoder(record, route, fast=not alike, texts=texts))
        except _Ended:
            return False
        if self.journal.path is None and self.on_full == "block":
            self._wait_shipped()
        return True

    def end(self) -> None:
        """Take no more records: those whose call has returned stand in the journal, all others are refused. Any thread."""
        with self._lock:
            self.appender = _CLOSED
            self.journal.close_segment()
            self.ended = True  # the last: whoever sees it finds no segment to write to
        self.made_room()  # calls that wait for some are refused

    def _append_in_passing(self, record: logging.LogRecord, route: object) -> bool:
        """Append what was logged on a thread that must not wait: where the segment has no room, it is a drop, and counted."""
        appender = self.journal.appender
        if self.ended:
            return False
        encoded = RecordEncoder(record, route)(appender[0])
        if len(encoded.data) < self.journal.largest and _put(appender, encoded.data):
            encoded.commit_schema()
        else:
            self.journal.count_drop("full", record.levelno)
        if self.idle:
            self.wake()
        return True

    def append_encoded(self, level: int, encode_in: Callable[[SchemaTable], EncodedRecord]) -> None:
        """Append a record that `encode_in` writes down for a segment. What is dropped is counted under `level`."""
        self._append(level, encode_in)

    def _wait_shipped(self) -> None:
        """Wait, as for room, until what stands in a journal that is mere memory has been shipped."""
        if self._starved or sys.is_finalizing():
            return
        shipped = threading.Event()
        self._unshipped.append(shipped)
        moves = None
        while not self.client_gone and moves != self.moves:
            moves = self.moves
            self.wake()
            if self._wait(lambda _, seconds: shipped.wait(seconds)):
                return
        self._starved = True

    @contextlib.contextmanager
    def shipping(self) -> Iterator[None]:
        """Surround the shipping of all that is unshipped now. The forwarder's."""
        waiting = []
        with contextlib.suppress(IndexError):  # that is all
            while True:
                waiting.append(self._unshipped.popleft())
        try:
            yield
            if waiting:
                self._starved = False
        finally:
            for shipped in waiting:
                shipped.set()

    def append_flush(self, version: int) -> None:
        """Append the sentinel of a flush. It is no record, and not dropped like one: without room, it is put off."""
        self._sentinels.append(number_entry(FLUSH, version))
        self.append_sentinels()
        self.wake()  # somebody waits: not at the end of the batching interval, but now

    def append_sentinels(self) -> bool:
        """Append the sentinels that were put off; tell whether one was.

        Who finds room calls it: a logging call that begins a segment, and the forwarder when it has shipped all.
        """
        found = False
        with contextlib.suppress(IndexError):  # that is all
            while True:
                entry = self._sentinels.popleft()
                if not self._append(None, partial(EncodedRecord, entry)):
                    self._sentinels.appendleft(entry)
                    break
                found = True
        return found

    def _append(self, level: int | None, encode_in: Callable[[SchemaTable], EncodedRecord]) -> bool:
        """Append what `encode_in` makes; a `level` of None is a sentinel's. False if it was not appended, or not yet."""
        while True:
            appender = self.journal.appender
            if self.ended and level is not None:  # asked after the line before: a later segment is for sentinels alone
                raise _Ended
            encoded = encode_in(appender[0])
            aside: int | None = None
            if len(encoded.data) >= self.journal.largest:
                try:
                    encoded, aside = self._set_aside(encoded, appender[0])
                except BlockingIOError:
                    if self._wait_for_reader(level):
                        continue
                    return False
            if _put(appender, encoded.data):
                encoded.commit_schema()
                if self.idle:
                    self.wake()
                return True
            if aside is not None and self._sides is not None:
                self._sides.take_back(aside)  # its entries use the shapes of the segment that is full
            if not self._next_segment(appender, level):
                return False

    def _set_aside(self, encoded: EncodedRecord, schemas: SchemaTable) -> tuple[EncodedRecord, int | None]:
        """Put entries too large for a segment into a side file; return an entry with its number, and the number.

        Where there can be no such file, the entry is the beginning of the record. `BlockingIOError` if there is no room yet.
        """
        if self._sides is not None:
            try:
                number = self._sides.put(
                    encoded.data, replace=self.client_gone, patient=self.on_full == "block" and not self._starved
                )
                return EncodedRecord(number_entry(LARGE, number), schemas), number
            except BlockingIOError:
                raise
            except OSError as failure:
                diagnose(f"a record of {len(encoded.data):,} bytes cannot be kept: {failure}")
        start = encoded.data[: min(4096, self.journal.capacity // 16)]  # fits, however it is spelled
        text = f"a record of {len(encoded.data):,} bytes was cut: no room for a side file beside the journal\n{start!r}"
        note = logging.makeLogRecord({"name": "meshlog", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})
        return encode_record(note, schemas), None

    def _wait_for_reader(self, level: int | None) -> bool:
        """Wait until the client has read a side file; False to give up: a drop has been counted then."""
        assert self._sides is not None  # or else nothing could be full of them
        if self.on_full == "block" and not self._starved:
            moves = self.moves
            if self._wait(self._sides.wait) or moves != self.moves or self.client_gone or self.ended:
                return True
            self._starved = True
        self.journal.count_drop("policy" if self.on_full == "drop" else "full", level or 0)
        if self.idle:
            self.wake()
        return False

    def _next_segment(self, appender: Appender, level: int | None) -> bool:
        """Go on in the next segment, once there is one; False to give up: a drop has been counted then."""
        give_up, waiter = False, None
        while True:
            give_up = give_up or level is None or self.on_full == "drop" or self._starved
            if self._change_segments(appender, level, give_up=give_up):
                if level is not None and self._sentinels:
                    self.append_sentinels()
                return True
            if self.idle:
                self.wake()
            if give_up:
                return False
            if waiter is None:
                waiter = self._begin_to_wait()  # and look again: who made room before that could not know
            else:
                give_up, waiter = not self._wait_for_room(waiter), None

    def _change_segments(self, appender: Appender, level: int | None, *, give_up: bool) -> bool:
        """Begin a new segment if there is one, else, to give up, count a drop.

        What logs in the middle of it on the same thread, a signal handler or a finalizer, passes the lock (see `journal`).
        """
        if level is None and threading.get_ident() in internal_threads:
            # Who holds the lock may have been interrupted by a call that waits until the forwarder makes room.
            if not self._lock.acquire(blocking=False):
                return False
            try:
                return self._rotate(appender)
            finally:
                self._lock.release()
        with self._lock:
            if self.ended and level is not None:
                raise _Ended
            found = self._rotate(appender)
            if not found and give_up and level is not None:
                self.journal.count_drop("policy" if self.on_full == "drop" else "full", level)
            return found

    def _rotate(self, appender: Appender) -> bool:
        if not self.journal.rotate(appender, overwrite=self.client_gone):
            return False
        self.open_fast_path()
        self._end_waits()  # there is room for others, too
        return True

    def _begin_to_wait(self) -> threading.Lock:
        """Return what is released when there may be room: one for each call, for a signal handler may need one meanwhile."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        return waiter

    def _end_waits(self) -> None:
        with contextlib.suppress(IndexError):  # that is all
            while True:
                self._waiting.popleft().release()

    def _wait_for_room(self, waiter: threading.Lock) -> bool:
        """Wait for as long as the client gets on; False if it did nothing for `BLOCK_SEC`."""
        moves = self.moves
        if self._wait(waiter.acquire) or moves != self.moves or self.client_gone or self.ended:
            return True
        self._starved = True
        return False

    def _wait(self, wait: Callable[[bool, float], bool]) -> bool:
        """Wait, `BLOCK_SEC` seconds at most, and see to it that somebody works meanwhile."""
        deadline = monotonic() + BLOCK_SEC
        while (left := deadline - monotonic()) > 0:
            if wait(True, min(left, _LOOK_SEC)):
                return True
            if self.client_gone or self.ended:
                return False
            self.wake()
        return False

    def client_moves(self) -> None:
        """Let calls go on waiting: the client has more than it can show, but it gets on. The runtime's."""
        self.moves += 1
        self._starved = False

    def made_room(self) -> None:
        """Let the waiting calls try again: a segment was shipped, or the client went. The forwarder's."""
        self._starved = False
        self._end_waits()

    def lose_link(self) -> None:
        """The program has closed our descriptors: nothing is shipped from now on, but the client reads the journal.

        So nothing in it is overwritten, and no call waits: what finds no room is counted at once.
        """
        with self.shipping():
            pass  # no more
        self._starved = True
        self._end_waits()

    def lose_client(self) -> None:
        """From now on the journal is a flight recorder: the newest records push out the oldest, and no call waits."""
        self.client_gone = True
        self.appender = _CLOSED
        _streams.discard(self)
        self.made_room()
        with self.shipping():
            pass  # nobody will

    def part(self) -> None:
        """This process has left its client: nothing is kept any more, and maps and descriptors are given back."""
        self.lose_client()
        journal, self.journal = self.journal, Journal(None, 1)
        journal.close()


def _put(appender: Appender, data: bytes) -> bool:
    try:
        appender[1](data)
    except ValueError:
        return False
    with contextlib.suppress(ValueError):  # the segment's very end has no room for a mark, and needs none
        appender[2](0xA5)
    return True


def _safe_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as failure:
        msg = record.msg if type(record.msg) is str else f"<{type(record.msg).__qualname__} object>"
        return f"{msg} [cannot be formatted: {type(failure).__name__}]"


def _before_fork() -> None:
    _forking.add(threading.get_ident())
    for stream in tuple(_streams):
        stream.appender = _CLOSED


def _after_fork_in_parent() -> None:
    _forking.discard(threading.get_ident())
    if not _forking:
        for stream in tuple(_streams):
            stream.open_fast_path()


def _after_fork_in_child() -> None:
    # The streams stay closed: they are the parent's.
    _forking.clear()
    for stream in tuple(_streams):
        _streams.discard(stream)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
