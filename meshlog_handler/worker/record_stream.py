"""The stream of records of one process: the journal, and what happens when the journal is full or has no reader.

Any thread, signal handler or finalizer may log. The lock is taken only to change segments; it is reentrant, because a signal
handler or finalizer may log while its thread holds it.
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

from ..errors import SettingError, quoted
from ..journal.side_files import SideFiles
from ..journal.writer import Appender, Journal
from ..protocol.encode import EncodedRecord, RecordEncoder, SchemaTable, encode_record
from ..protocol.entries import FLUSH, LARGE, number_entry
from ..system.diagnostics import diagnose
from ..system.waits import monotonic

OnFull = Literal["block", "drop"]

internal_threads: Final[set[int]] = set()
"""Identifiers of this package's threads. Their records are never forwarded: a handler that logs would trigger itself."""

transport_threads: Final[set[int]] = set()
"""The internal threads that transport a worker's records and commands. They do not log, but the garbage collector may run a
program's finalizers on them. Records of these finalizers are forwarded without waiting for room."""

# A thread of a forked child may get the identifier of a thread of the parent.
os.register_at_fork(after_in_child=internal_threads.clear)
os.register_at_fork(after_in_child=transport_threads.clear)


def is_own(record: logging.LogRecord) -> bool:
    """Return whether a record was logged on a thread of this package and must not be forwarded."""
    # The current thread comes first, because ``logging.logThreads`` can be off. A record that a queue passed to another thread
    # of this process still has the identifier of the thread that logged it.
    current = threading.get_ident()
    if current in internal_threads:
        return current not in transport_threads
    thread = record.thread
    return thread in internal_threads and thread not in transport_threads and record.process == os.getpid()


def _never(_: logging.LogRecord) -> bool:
    return False


show_late: Callable[[logging.LogRecord], bool] = _never
"""Let console handlers show a record that they suppressed but that was not forwarded; return whether one showed it."""

shown_here: Callable[[logging.LogRecord], bool] = _never
"""Return whether a handler of this process shows a record, so that `append` need not. See `console_handlers`."""

BLOCK_SEC: Final = 10.0
"""Seconds a logging call waits at most while a live client neither makes room nor reports progress."""

_CHECK_SEC: Final = 0.2  # a waiting call wakes the forwarder this often, and so restarts a killed thread

_SIDE_FACTOR: Final = 4  # limit for unread side files, as a multiple of the journal's size


def check_on_full(policy: str) -> OnFull:
    """Return `policy` if it is valid; otherwise raise `SettingError`, which lists the valid policies."""
    if policy not in ("block", "drop"):
        raise SettingError(
            f"on_full={quoted(policy)} is not a policy. Valid: 'block' (wait for a live client, bounded) or 'drop'."
        )
    return policy  # type: ignore[return-value]  # checked above


def _refuse(_: object) -> NoReturn:
    raise ValueError


_CLOSED: Final[Appender] = (SchemaTable(), _refuse, _refuse)
"""An appender without schemas: every record takes the slow path."""


class _StreamEnded(Exception):
    """The stream accepts no more records."""


_streams: Final[weakref.WeakSet[RecordStream]] = weakref.WeakSet()
_forking: Final[set[int]] = set()
"""Threads that are forking. Until they finish, no call takes the fast path: the program's fork hooks may log in the child
before the hooks below run, and would overwrite the parent's records in the shared journal."""


class RecordStream:
    """The records of one process, in the order of their logging calls."""

    # `on_full` applies when every segment is full of unshipped records. "block" waits for room while the client makes progress
    # (see `BLOCK_SEC`); "drop" drops at once. Both count drops exactly. `wake` is called to wake an `idle` forwarder.

    def __init__(self, journal: Journal, on_full: OnFull, wake: Callable[[], None]) -> None:
        self.journal = journal
        # Without a file the journal does not outlive the process: every call takes the slow path, which waits until the record
        # is shipped.
        self.appender = _CLOSED
        self.on_full = on_full
        self.idle = True
        self.client_gone = False
        self.overwrites = False  # whether new records overwrite the oldest ones: see `lose_client`
        self.ended = False
        self.pid = os.getpid()
        self.wake = wake
        self._lock = threading.RLock()
        self._waiting: deque[threading.Lock] = deque()
        self._starved = False  # a wait timed out: further calls do not wait until the client makes progress
        self.moves = 0  # how often the client reported progress
        self.kept: int | None = None  # the generation before which a relay's client has everything, if the forwarder is to know
        self._reported = False  # that a side file cannot be written
        self._sentinels: deque[bytes] = deque()
        self._unshipped: deque[threading.Event] = deque()
        self._sides = SideFiles(journal.path, _SIDE_FACTOR * journal.size) if journal.path is not None else None
        _streams.add(self)
        self.open_fast_path()

    def open_fast_path(self) -> None:
        """Let calls take the fast path, unless a thread is forking, the client is gone or the stream has ended."""
        if self.journal.path is not None and not (self.client_gone or self.ended or _forking):
            self.appender = self.journal.appender
            if self.client_gone or self.ended or _forking:  # it changed since the check above
                self.appender = _CLOSED

    def append(self, record: logging.LogRecord, route: object = None, texts: object = ()) -> bool:
        """Append a record with its route and formatted texts: the slow path of `MeshHandler`.

        Return False if the stream has ended. The record is then neither appended nor counted; this process has to show it.
        """
        if is_own(record):
            return True
        if threading.get_ident() in transport_threads:
            return self._append_without_waiting(record, route)
        if self.client_gone and record.levelno >= logging.WARNING and not shown_here(record):
            diagnose(f"{record.levelname} {record.name}: {_safe_message(record)}")
        # The fast path tells threads apart by the thread in the schema. If the schema has no thread, and internal threads call
        # handlers of the program, every record takes the slow path, which checks the current thread.
        ambiguous = record.thread is None and not internal_threads <= transport_threads
        try:
            self.append_encoded(record.levelno, RecordEncoder(record, route, fast=not ambiguous, texts=texts))
        except _StreamEnded:
            return False
        if self.journal.path is None and self.on_full == "block":
            self._wait_shipped()
        return True

    def end(self) -> None:
        """Accept no more records. Records of calls that have returned are in the journal. Any thread may call it."""
        with self._lock:
            self.appender = _CLOSED
            self.journal.close_segment()
            self.ended = True  # last: a thread that sees it finds no open segment
        self.made_room()  # calls that wait for room are refused

    def _append_without_waiting(self, record: logging.LogRecord, route: object) -> bool:
        """Append a record of a thread that must not wait; without room in the segment, drop and count it."""
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
        """Append the record that `encode_in` encodes for a segment. A drop is counted under `level`."""
        self._append(level, encode_in)

    def _wait_shipped(self) -> None:
        """Wait, as for room, until the records of a journal in memory are shipped."""
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
        """Surround the shipping of everything that is unshipped now."""
        waiting = []
        with contextlib.suppress(IndexError):  # the queue is empty
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
        """Append the sentinel of a flush. A sentinel is never dropped: without room, it is postponed."""
        self._sentinels.append(number_entry(FLUSH, version))
        self.append_sentinels()
        self.wake()  # a caller waits for the flush: do not wait for the end of the batching interval

    def append_sentinels(self) -> bool:
        """Append postponed sentinels; return whether any was appended."""
        # Called where there may be room: by a logging call that begins a segment, and by the forwarder after it shipped all.
        found = False
        with contextlib.suppress(IndexError):  # the queue is empty
            while True:
                entry = self._sentinels.popleft()
                if not self._append(None, partial(EncodedRecord, entry)):
                    self._sentinels.appendleft(entry)
                    break
                found = True
        return found

    def _append(self, level: int | None, encode_in: Callable[[SchemaTable], EncodedRecord]) -> bool:
        """Append what `encode_in` encodes (`level` is None for a sentinel); return False if it was dropped or postponed."""
        while True:
            appender = self.journal.appender
            if self.ended and level is not None:  # checked after reading the appender: later segments are for sentinels only
                raise _StreamEnded
            encoded = encode_in(appender[0])
            aside: int | None = None
            if len(encoded.data) >= self.journal.largest:
                try:
                    encoded, aside = self._set_aside(encoded, appender[0], level or 0)
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
                self._sides.take_back(aside)  # its entries use the schemas of the full segment
            if not self._next_segment(appender, level):
                return False

    def _set_aside(self, encoded: EncodedRecord, schemas: SchemaTable, level: int) -> tuple[EncodedRecord, int | None]:
        """Write entries too large for a segment to a side file; return an entry with the file's number, and the number."""
        # If the file cannot be written, the entry is the start of the record. Raises BlockingIOError while there is no room.
        if self._sides is not None:
            try:
                number = self._sides.put(encoded.data, replace=self.overwrites, patient=not self._drops_at_once)
                return EncodedRecord(number_entry(LARGE, number), schemas), number
            except BlockingIOError:
                raise
            except OSError as failure:
                if not self._reported:
                    self._reported = True
                    size = f"{len(encoded.data):,} bytes"
                    diagnose(
                        f"a record of {size} cannot be written to a side file: {failure}. Each record that is cut says so."
                    )
        start = encoded.data[: min(4096, self.journal.capacity // 16)]  # fits, however it is encoded
        text = f"a record of {len(encoded.data):,} bytes was cut: no room for a side file beside the journal\n{start!r}"
        level = max(level, logging.WARNING)
        note = logging.makeLogRecord(
            {"name": "meshlog", "levelno": level, "levelname": logging.getLevelName(level), "msg": text}
        )
        return encode_record(note, schemas), None

    def _wait_for_reader(self, level: int | None) -> bool:
        """Wait until the client has read a side file; return False to give up, after counting a drop."""
        assert self._sides is not None  # only side files cause this wait
        if not self._drops_at_once:
            moves = self.moves
            if self._wait(self._sides.wait) or moves != self.moves or self.client_gone or self.ended:
                return True
            self._starved = True
        self._count_drop(level or 0)
        if self.idle:
            self.wake()
        return False

    def _next_segment(self, appender: Appender, level: int | None) -> bool:
        """Change to the next segment, once one is free; return False to give up, after counting a drop."""
        give_up, waiter = False, None
        while True:
            give_up = give_up or level is None or self._drops_at_once
            if self._change_segments(appender, level, give_up=give_up):
                if level is not None and self._sentinels:
                    self.append_sentinels()
                return True
            if self.idle:
                self.wake()
            if give_up:
                return False
            if waiter is None:
                waiter = self._begin_to_wait()  # then try again: room made before this call releases no waiter
            else:
                give_up, waiter = not self._wait_for_room(waiter), None

    def _change_segments(self, appender: Appender, level: int | None, *, give_up: bool) -> bool:
        """Begin a new segment if one is free; otherwise, with `give_up`, count a drop."""
        # The lock is reentrant: a signal handler or finalizer that logs on this thread changes segments itself (see `journal`).
        if level is None and threading.get_ident() in internal_threads:
            # The call that holds the lock may have been interrupted by one that waits for the forwarder to make room.
            if not self._lock.acquire(blocking=False):
                return False
            try:
                return self._rotate(appender)
            finally:
                self._lock.release()
        with self._lock:
            if self.ended and level is not None:
                raise _StreamEnded
            found = self._rotate(appender)
            if not found and give_up and level is not None:
                self._count_drop(level)
            return found

    @property
    def _drops_at_once(self) -> bool:
        """Whether a record without room is dropped at once: by its policy, or because nobody makes room."""
        return self.on_full == "drop" or self._starved or (self.client_gone and not self.overwrites)

    def _count_drop(self, level: int) -> None:
        self.journal.count_drop("gone" if self.client_gone else "policy" if self.on_full == "drop" else "full", level)

    def _rotate(self, appender: Appender) -> bool:
        if not self.journal.rotate(appender, overwrite=self.overwrites):
            return False
        self.open_fast_path()
        self._end_waits()  # other calls have room, too
        return True

    def _begin_to_wait(self) -> threading.Lock:
        """Return a lock that is released when there may be room. Each call has its own: a signal handler may wait, too."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        return waiter

    def _end_waits(self) -> None:
        with contextlib.suppress(IndexError):  # the queue is empty
            while True:
                self._waiting.popleft().release()

    def _wait_for_room(self, waiter: threading.Lock) -> bool:
        """Wait while the client makes progress; return False if it made none for `BLOCK_SEC`."""
        moves = self.moves
        if self._wait(waiter.acquire) or moves != self.moves or self.client_gone or self.ended:
            return True
        self._starved = True
        return False

    def _wait(self, wait: Callable[[bool, float], bool]) -> bool:
        """Call `wait` for up to `BLOCK_SEC` seconds, and keep the forwarder awake; return whether it succeeded."""
        deadline = monotonic() + BLOCK_SEC
        while (left := deadline - monotonic()) > 0:
            if wait(True, min(left, _CHECK_SEC)):
                return True
            if self.client_gone or self.ended:
                return False
            self.wake()
        return False

    @property
    def waits_until_shown(self) -> bool:
        """Whether a call waits for room, and there will be room when the client has shown records."""
        return bool(self._waiting) and self.journal.keeps_until_shown

    def client_moves(self) -> None:
        """Note that the client is behind but makes progress: calls keep waiting. For the runtime and a relay's uplink."""
        self.moves += 1
        self._starved = False

    def is_kept(self, generation: int) -> None:
        """Note that everything before `generation` is above the relay. The forwarder then makes room."""
        self.kept = generation
        self.wake()

    @property
    def postponed(self) -> bool:
        """Whether sentinels wait for room."""
        return bool(self._sentinels)

    def made_room(self) -> None:
        """Let waiting calls try again: a segment was shipped, the client is gone, or the stream has ended."""
        self._starved = False
        self._end_waits()

    def lose_link(self) -> None:
        """Stop shipping: the program closed the connection's descriptor. The client still reads the journal file."""
        # So the journal is not overwritten, and no call waits: without room, a record is dropped and counted at once.
        with self.shipping():
            pass  # release the calls that wait for shipping
        self._starved = True
        self._end_waits()

    def lose_client(self, *, read_later: bool = False) -> None:
        """Turn the journal into a flight recorder: new records overwrite the oldest, and no call waits.

        If it is `read_later`, after this process has ended, nothing is overwritten: what finds no room is counted.
        """
        self.overwrites = not read_later
        self.client_gone = True
        self.appender = _CLOSED
        _streams.discard(self)
        self.made_room()
        with self.shipping():
            pass  # release the calls that wait for shipping

    def part(self) -> None:
        """Release maps and descriptors, and keep no more records: this process has left its client."""
        self.lose_client()
        journal, self.journal = self.journal, Journal(None, 1)
        journal.close()


def _put(appender: Appender, data: bytes) -> bool:
    try:
        appender[1](data)
    except ValueError:
        return False
    with contextlib.suppress(ValueError):  # a full segment has no room for the commit byte, and needs none
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
    # The fast paths stay closed: these streams belong to the parent.
    _forking.clear()
    for stream in tuple(_streams):
        _streams.discard(stream)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
