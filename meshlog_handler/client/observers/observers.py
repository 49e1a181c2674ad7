"""The observers of a client: they ask, and follow what is shown. Client thread only, except where a docstring says otherwise.

::

    observer -> socket -> Observers -> a thread for each question -> Reply
    Dispatcher -> a segment for each tick -> outboxes -> sockets -> observers that follow

An observer cannot slow the client down. One that does not read what it was sent gets errors only, and nothing when these do not
fit either. The dispatcher passes on no record below the level that an observer has room for: records that are left out cost
nothing, and their number is the difference of two counters. While the client is behind its workers, it spends a small part of
its time on observers, a few times a second, and leaves out the other records in the same way.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from ...dispatch.dispatcher import Dispatcher
from ...dispatch.sink import own_fields, own_info
from ...errors import ClosedError, ProtocolError
from ...protocol.decode import Item, RecordDecoder, no_side_file
from ...protocol.encode import RecordEncoder, SchemaTable
from ...protocol.frames import CONTROL, DATA, FrameReader, frame
from ...protocol.messages import Message, Welcome, decode
from ...protocol.observer_messages import FROM_OBSERVER, Ask, Follow, Missed, Reply
from ...protocol.record import MeshRecord, info_of
from ...protocol.relayed_records import encode_relayed
from ...system.error_reports import ErrorReports, describe
from ...system.waits import deadline_after, monotonic
from ...transport.listener import NewConnection
from ..peers.reactor import Reactor

MAX_OBSERVERS: Final = 64
"""Observers that a client has at a time."""

MAX_ASKED: Final = 1 << 20
"""Bytes of a message of an observer."""

MAX_OPEN: Final = 4
"""Questions of an observer that are answered at a time. Further ones wait in its socket."""

MAX_UNREAD: Final = 2 << 20
"""Bytes of records that wait for an observer that does not read them. Beyond it, no further question is answered."""

MAX_ERRORS: Final = 512 << 10
"""Bytes, besides these, of records of level ERROR and above."""

MAX_ANSWERS: Final = 32
"""Questions of all observers that are answered at a time, each on a thread."""

MAX_HERE: Final = 1024
"""Records that other threads of this process have shown, and that wait to be sent; twice as many errors."""

SHARE: Final = 0.02
"""The part of its time that a client spends on observers that follow, while it is behind its workers."""

_PAUSE_SEC: Final = 0.1  # meanwhile, between two times at which records are sent
_MAX_CREDIT_SEC: Final = 0.02  # errors may use as much in advance
_READ: Final = 64 * 1024
_SEGMENT: Final = 128 * 1024
_LAST_SEC: Final = 0.25
_NOTHING: Final = float("inf")
"""The level of no record."""


class Shown(NamedTuple):
    """Numbers of records that were shown, and of the errors among them."""

    records: int
    errors: int


_NONE: Final = Shown(0, 0)


@dataclass(eq=False)
class _Observer:
    """One connection: what it has asked, what waits for it, what it follows, and how many records it missed."""

    sock: socket.socket
    pid: int
    frames: FrameReader = field(default_factory=lambda: FrameReader(MAX_ASKED))
    asked: deque[Ask] = field(default_factory=deque)
    open: int = 0
    outbox: bytearray = field(default_factory=bytearray)
    mask: int = 0
    follows: Follow | None = None
    ranks: frozenset[int] | None = None
    level: float = _NOTHING  # of the records that it gets now
    missed: int = 0
    missed_errors: int = 0

    def has_room(self, size: int, level: float = 0) -> bool:
        """Return whether a segment of this size, of records of `level` and above, fits into the outbox."""
        return len(self.outbox) + size <= MAX_UNREAD + (MAX_ERRORS if level >= logging.ERROR else 0)

    def fitting(self, lowest: float) -> float:
        """Return the lowest level from `lowest` on of records that it follows and has room for; infinity without room."""
        assert self.follows is not None  # see the callers
        for level in (max(self.follows.level, lowest), max(self.follows.level, lowest, logging.ERROR)):
            if self.has_room(_SEGMENT, level):
                return level
        return _NOTHING

    def put(self, message: Message) -> None:
        """Add a message to the outbox."""
        self.outbox += frame(CONTROL, message.encode())

    def miss(self, count: int, errors: int) -> None:
        """Count records that it does not get."""
        self.missed += count
        self.missed_errors += errors

    def tell_missed(self) -> None:
        """Report the records that were left out."""
        if self.missed > 0:
            self.put(Missed(self.missed, self.missed_errors))
            self.missed = self.missed_errors = 0


class _FollowedStream:
    """The records of `level` and above for observers that follow the same. Each segment defines its schemas anew.

    `shown` returns how many records were shown so far, and how many of them were errors. A shown record that is in no
    segment was missed. Nothing is missed while `level` is the one that the observers have asked for.
    """

    def __init__(self, follows: Follow, level: float, observers: Sequence[_Observer], shown: Callable[[], Shown]) -> None:
        self.level = level
        self.ranks = None if follows.ranks is None else frozenset(follows.ranks)
        self._whole = level <= follows.level
        self._errors_only = follows.level >= logging.ERROR
        self._observers = observers
        self._shown = shown
        self._before = shown()
        self._begin()

    def _begin(self) -> None:
        self._table, self._data, self._count, self._errors = SchemaTable(), bytearray(), 0, 0

    def add(self, record: logging.LogRecord, *, ends_bar: bool = False) -> bool:
        """Add a record if it is one to send; return whether a segment was complete, and is in the outboxes."""
        if record.levelno < self.level or (self.ranks is not None and info_of(record).rank not in self.ranks):
            return False
        # The end of a progress state is not a record.
        this = _NONE if ends_bar else Shown(1, int(record.levelno >= logging.ERROR))
        encoded = encode_relayed(record, self._table)
        full = bool(self._data) and len(self._data) + len(encoded.data) > _SEGMENT
        if full:
            self.ship(this)
            encoded = encode_relayed(record, self._table)
        encoded.commit_schema()
        self._data += encoded.data
        self._count += this.records
        self._errors += this.errors
        return full

    def miss(self, level: int, count: int) -> None:
        """Count records that other threads have shown, and that are not sent."""
        for each in self._observers if self._whole and level >= self.level else ():
            each.miss(count, count if level >= logging.ERROR else 0)

    def ship(self, later: Shown = _NONE) -> None:
        """Pass the records so far to the outboxes of the observers, and count those that are left out.

        `later`: the records among those shown that belong to the next segment.
        """
        before, now = self._before, self._shown()
        self._before = Shown(now.records - later.records, now.errors - later.errors)
        errors = self._before.errors - before.errors
        count = errors if self._errors_only else self._before.records - before.records
        segment = bytes(self._data)
        for each in self._observers:
            if not self._whole:
                each.miss(count - self._count, errors - self._errors)
            if segment and each.has_room(len(segment), self.level):
                each.tell_missed()
                each.outbox += frame(DATA, segment)
            else:
                each.miss(self._count, self._errors)
        if segment:
            self._begin()


class Observers:
    """The observers of one client, and what is sent to them.

    `answer` returns the reply to a question, on a separate thread. `post` runs a function on the client's thread, from any
    thread; it raises `ClosedError` after the client has ended. `backlog` returns the latest records of all ranks, oldest first.
    `reports` gets what observers cause.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        answer: Callable[[Ask], Reply],
        post: Callable[[Callable[[], Any]], object],
        backlog: Callable[[], Iterable[logging.LogRecord]],
        *,
        reports: ErrorReports,
    ) -> None:
        self._reports = reports
        self._dispatcher = dispatcher
        self._answer = answer
        self._post = post
        self._backlog = backlog
        self._observers: set[_Observer] = set()
        self._streams: tuple[_FollowedStream, ...] = ()
        self._open = 0
        self._credit, self._ticked = float("inf"), 0.0  # seconds that may be spent on records; when it was counted
        self._affordable = 0.0  # the level of records that may be sent at this credit
        self._here: deque[bytes] = deque()
        self._shown_here = _NONE  # by other threads, of those that were taken and left out
        self._missed_here: dict[int, itertools.count[int]] = {}  # records that were left out, by level
        self._missed_before: dict[int, int] = {}  # how many of them were told, by level
        self._level = _NOTHING  # the lowest of a stream
        self._waking = False
        self._decoder = RecordDecoder({**own_fields(), "client": None}, no_side_file)
        self._reactor: Reactor

    def attach(self, reactor: Reactor) -> None:
        """Use the selector of a client that starts."""
        self._reactor = reactor

    def add(self, connection: NewConnection, welcome: Welcome) -> None:
        """Add an observer; `ClosedError` if there are too many."""
        if len(self._observers) >= MAX_OBSERVERS:
            raise ClosedError(f"this client has {MAX_OBSERVERS} observers.")
        observer = _Observer(connection.sock, connection.pid)
        observer.sock.setblocking(False)
        self._observers.add(observer)
        observer.put(welcome)
        self._write(observer)

    # -- from observers --------------------------------------------------------------------------------------------

    def _ready(self, observer: _Observer, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                self._read(observer)
            self._write(observer)
        except Exception as failure:
            text = str(failure) if isinstance(failure, ProtocolError) else describe(failure)
            text = f"protocol error from an observer (pid {observer.pid}); its connection is closed: {text}"
            self._reports.tell("protocol error from an observer; its connection is closed", text)
            self._drop(observer)

    def _read(self, observer: _Observer) -> None:
        try:
            data = observer.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(observer)
            return
        for kind, payload in observer.frames.feed(data):
            if kind != CONTROL:
                raise ProtocolError(f"unexpected frame of kind {kind}")
            message = decode(payload, *FROM_OBSERVER)
            if isinstance(message, Ask):
                observer.asked.append(message)
            elif isinstance(message, Follow):
                self._follow(observer, message)
        self._start_answers(observer)

    def _start_answers(self, observer: _Observer) -> None:
        while observer.asked and observer.open < MAX_OPEN and self._open < MAX_ANSWERS and len(observer.outbox) <= MAX_UNREAD:
            question = observer.asked.popleft()
            observer.open += 1
            self._open += 1
            thread = threading.Thread(target=self._give, args=(observer, question), name="meshlog-observer", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:  # no thread can be started
                self._replied(observer, Reply(question.request, b"", "BusyError", str(failure)))

    def _give(self, observer: _Observer, question: Ask) -> None:
        """Answer a question. On a separate thread."""
        reply = self._answer(question)
        with contextlib.suppress(ClosedError):  # the client has ended, and the connection with it
            self._post(partial(self._replied, observer, reply))

    def _replied(self, observer: _Observer, reply: Reply) -> None:
        self._open -= 1
        observer.open -= 1
        if observer in self._observers:
            observer.put(reply)
        for each in tuple(self._observers) if self._open == MAX_ANSWERS - 1 else (observer,):
            self._start_answers(each)
            self._write(each)

    def _follow(self, observer: _Observer, follow: Follow) -> None:
        if observer.follows is not None:  # each costs the client's thread time
            raise ProtocolError("an observer follows once. Expected no second request to follow")
        if follow.backlog:
            stream = _FollowedStream(follow, follow.level, (observer,), self._shown)
            wanted = [each for each in self._backlog() if stream.ranks is None or info_of(each).rank in stream.ranks]
            for record in [each for each in wanted if each.levelno >= follow.level][-follow.backlog :]:
                stream.add(record)
            stream.ship()
        observer.follows, observer.ranks = follow, None if follow.ranks is None else frozenset(follow.ranks)
        self._divide()

    def _divide(self) -> None:
        """Make a stream for each kind of following, and let the dispatcher pass on what one of them takes."""
        self._ship()
        self._affordable = self._level_for(self._credit)
        kinds: dict[tuple[int, frozenset[int] | None, float], tuple[Follow, list[_Observer]]] = {}
        for each in self._observers:
            if (follows := each.follows) is not None:
                each.level = each.fitting(self._affordable)
                kinds.setdefault((follows.level, each.ranks, each.level), (follows, []))[1].append(each)
        self._streams = tuple(
            _FollowedStream(follows, level, each, self._shown) for (_, _, level), (follows, each) in kinds.items()
        )
        tap = self if self._streams else None
        if self._dispatcher.tap is not tap:
            self._dispatcher.tap = tap
        self._level = self._dispatcher.tap_level = min((stream.level for stream in self._streams), default=_NOTHING)

    def _level_for(self, credit: float) -> float:
        if credit > 0:
            return 0
        return logging.ERROR if credit > -_MAX_CREDIT_SEC else _NOTHING

    def _shown(self) -> Shown:
        return Shown(self._dispatcher.shown + self._shown_here.records, self._dispatcher.errors + self._shown_here.errors)

    def _ship(self) -> None:
        for level, counter in tuple(self._missed_here.items()):
            total = int(repr(counter)[6:-1])  # "count(3)": the next number, without taking it
            count = total - self._missed_before.get(level, 0)
            self._missed_before[level] = total
            self._add_shown_here(level, count)
            for stream in self._streams:
                stream.miss(level, count)
        for stream in self._streams:
            stream.ship()

    def _add_shown_here(self, level: int, count: int) -> None:
        records, errors = self._shown_here
        self._shown_here = Shown(records + count, errors + (count if level >= logging.ERROR else 0))

    # -- to observers ----------------------------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord, *, ends_bar: bool = False) -> None:
        """Take a record that handlers get."""
        began = monotonic()
        full = False
        for stream in self._streams:
            try:
                full = stream.add(record, ends_bar=ends_bar) or full
            except Exception as failure:  # the handlers get it in any case
                self._reports.log("a record cannot be sent to observers", failure)
        self._credit -= monotonic() - began
        if full or self._level_for(self._credit) != self._affordable:
            self._divide()

    def end_bar(self, record: logging.LogRecord) -> None:
        """Take the notice that a progress state has ended, as `UpstreamHandler.end_bar` does."""
        if record.levelno >= self._level:
            info = info_of(record)
            notice = MeshRecord.of({**record.__dict__, "msg": ""}, info.but(raw="", progress=True, partial=True))
            self.handle(notice, ends_bar=True)

    def handle_elsewhere(self, record: logging.LogRecord) -> None:
        """Take a record that another thread of this process shows itself. Any thread."""
        level = record.levelno or 0  # None in a record without a level
        if level < self._level or len(self._here) >= (MAX_HERE if level < logging.ERROR else 2 * MAX_HERE):
            next(self._missed_here.get(level) or self._missed_here.setdefault(level, itertools.count()))
            return
        plain = copy.copy(record)
        for name, value in own_fields().items():
            if plain.__dict__.get(name, self) is value:
                del plain.__dict__[name]
        self._here.append(RecordEncoder(plain, own_info().route)(SchemaTable()).data)
        if not self._waking:
            self._waking = True
            with contextlib.suppress(ClosedError):  # the client has ended
                self._post(self._take_here)

    def _take_here(self) -> None:
        self._waking = False
        for _ in range(len(self._here)):
            items: list[Item] = []
            data = self._here.popleft()
            self._decoder.new_segment()
            self._decoder.decode(data, 0, 1, items)
            for _, template, values in items:
                self._add_shown_here(template.levelno, 1)
                self.handle(template.build(values))
            self._decoder.touched.clear()
            self._decoder.texts.clear()

    def end_tick(self, behind: bool = False) -> None:
        """Send what was shown since the last call. `behind`: the client has not shown all that it has received."""
        if not self._streams:
            return
        now = monotonic()
        if behind and self._credit < float("inf") and now - self._ticked < _PAUSE_SEC:
            return
        earned = SHARE * (now - self._ticked)
        self._credit = min(self._credit + earned, _MAX_CREDIT_SEC) if behind else float("inf")
        self._ticked = now
        self._ship()
        followers = [each for each in self._observers if each.follows is not None]
        for observer in followers:
            if observer.missed and observer.has_room(_SEGMENT):
                observer.tell_missed()
            if not observer.mask & selectors.EVENT_WRITE:  # else there is no room in its socket yet
                self._write(observer)
        level = self._level_for(self._credit)
        if level != self._affordable or any(each.fitting(level) != each.level for each in followers):
            self._divide()
        self._credit -= monotonic() - now

    def _write(self, observer: _Observer) -> None:
        if observer not in self._observers:
            return
        try:
            with contextlib.suppress(BlockingIOError):  # the rest is sent when the socket is writable
                while observer.outbox:
                    del observer.outbox[: observer.sock.send(observer.outbox)]
        except OSError:  # it has ended
            self._drop(observer)
            return
        self._start_answers(observer)  # now that there is room for them
        if observer not in self._observers:
            return
        reads = len(observer.outbox) <= MAX_UNREAD and not observer.asked
        mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if observer.outbox else 0)
        if mask != observer.mask:
            observer.mask = mask
            self._reactor.attend(observer.sock, mask, partial(self._ready, observer))

    def _drop(self, observer: _Observer) -> None:
        if observer not in self._observers:
            return
        self._observers.discard(observer)
        observer.asked.clear()
        self._reactor.attend(observer.sock, 0, partial(self._ready, observer))
        observer.sock.close()
        if observer.follows is not None:
            self._divide()

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send the rest to those that read it at once, and close all connections."""
        self.end_tick()
        self._dispatcher.tap, self._streams = None, ()
        deadline = deadline_after(_LAST_SEC)
        # A page that nobody looks at reads when its other connection ends.
        for observer in sorted(self._observers, key=lambda each: each.follows is not None):
            observer.follows = None
            observer.tell_missed()
            with contextlib.suppress(OSError):  # it does not read, or has ended
                observer.sock.settimeout(max(0.001, deadline - monotonic()))
                observer.sock.sendall(observer.outbox)
            self._drop(observer)

    def disconnect(self) -> None:
        """Close the connections. Any thread: the client's thread is blocked for good."""
        for observer in tuple(self._observers):
            with contextlib.suppress(OSError):  # already closed
                observer.sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: close its copies."""
        # Not `tap`, which takes locks that another thread may have held at the fork.
        self._level = self._dispatcher.tap_level = _NOTHING
        for observer in self._observers:
            observer.sock.close()
