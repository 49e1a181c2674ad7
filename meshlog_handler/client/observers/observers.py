"""The observers of a client: they ask, and follow what is shown. Client thread only, except where a docstring says otherwise.

::

    observer -> socket -> Observers -> a thread for each question -> Reply
    Dispatcher -> a segment for each tick -> outboxes -> sockets -> observers that follow

An observer cannot slow the client down. A segment that does not fit into its outbox is left out, counted, and reported to it
later. While no observer has room, records are only counted. While the client is behind its workers, it spends a small part of
its time on observers, and counts the other records.
"""

from __future__ import annotations

import contextlib
import copy
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...dispatch.dispatcher import Dispatcher
from ...dispatch.sink import own_fields
from ...errors import ClosedError, ProtocolError
from ...protocol.decode import Item, RecordDecoder, no_side_file
from ...protocol.encode import RecordEncoder, SchemaTable
from ...protocol.frames import CONTROL, DATA, FrameReader, frame
from ...protocol.messages import Message, Welcome, decode
from ...protocol.observer_messages import FROM_OBSERVER, Ask, Follow, Missed, Reply
from ...protocol.record import MeshRecord, info_of
from ...protocol.relayed_records import encode_relayed
from ...system.diagnostics import diagnose
from ...system.error_reports import describe
from ...system.waits import deadline_after, monotonic
from ...transport.listener import NewConnection
from ..peers.reactor import Reactor

if TYPE_CHECKING:
    import logging

MAX_OBSERVERS: Final = 64
"""Observers that a client has at a time."""

MAX_ASKED: Final = 1 << 20
"""Bytes of a message of an observer."""

MAX_OPEN: Final = 4
"""Questions of an observer that are answered at a time. Further ones wait in its socket."""

MAX_UNREAD: Final = 2 << 20
"""Bytes of records that wait for an observer that does not read them. Beyond it, no further question is answered."""

MAX_ANSWERS: Final = 32
"""Questions of all observers that are answered at a time, each on a thread."""

MAX_HERE: Final = 1024
"""Records that other threads of this process have shown, and that wait to be sent."""

SHARE: Final = 0.02
"""The part of its time that a client spends on records for observers while it is behind its workers."""

_MAX_CREDIT_SEC: Final = 0.02
_READ: Final = 64 * 1024
_SEGMENT: Final = 128 * 1024
_LAST_SEC: Final = 0.25


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
    missed: int = 0

    def has_room(self, size: int) -> bool:
        """Return whether a segment of this size fits into the outbox."""
        return len(self.outbox) + size <= MAX_UNREAD

    def put(self, message: Message) -> None:
        """Add a message to the outbox."""
        self.outbox += frame(CONTROL, message.encode())

    def put_segment(self, segment: bytes, count: int) -> None:
        """Add a segment with `count` records to the outbox if there is room; else count them."""
        if not self.has_room(len(segment)):
            self.missed += count
            return
        self.tell_missed()
        self.outbox += frame(DATA, segment)

    def tell_missed(self) -> None:
        """Report the records that were left out."""
        if self.missed:
            self.put(Missed(self.missed))
            self.missed = 0


class _FollowedStream:
    """The records for the observers that follow the same level and ranks. Each segment defines its schemas anew.

    It is not `open` while none of the observers has room for a segment, or the client has no time. Then it only counts records.
    """

    def __init__(self, follows: Follow, observers: Sequence[_Observer]) -> None:
        self.level = follows.level
        self.ranks = None if follows.ranks is None else frozenset(follows.ranks)
        self._observers = observers
        self._begin()

    def _begin(self) -> None:
        self._table, self._data, self._count, self._skipped = SchemaTable(), bytearray(), 0, 0
        self.open = any(each.has_room(_SEGMENT) for each in self._observers)

    def add(self, record: logging.LogRecord) -> None:
        """Add a record, or count it if the stream is not open."""
        if record.levelno < self.level or (self.ranks is not None and info_of(record).rank not in self.ranks):
            return
        if not self.open:
            self._skipped += 1
            return
        encoded = encode_relayed(record, self._table)
        encoded.commit_schema()
        self._data += encoded.data
        self._count += 1
        if len(self._data) > _SEGMENT:
            self.ship()

    def skip(self, count: int) -> None:
        """Count records that are not sent."""
        self._skipped += count

    def ship(self) -> None:
        """Pass the records so far to the outboxes of the observers."""
        if self._count or self._skipped:
            for each in self._observers:
                each.missed += self._skipped
                if self._count:
                    each.put_segment(bytes(self._data), self._count)
        self._begin()


class Observers:
    """The observers of one client, and what is sent to them.

    `answer` returns the reply to a question, on a separate thread. `post` runs a function on the client's thread, from any
    thread; it raises `ClosedError` after the client has ended. `backlog` returns the latest records of all ranks, oldest first.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        answer: Callable[[Ask], Reply],
        post: Callable[[Callable[[], Any]], object],
        backlog: Callable[[], Iterable[logging.LogRecord]],
    ) -> None:
        self._dispatcher = dispatcher
        self._answer = answer
        self._post = post
        self._backlog = backlog
        self._observers: set[_Observer] = set()
        self._streams: tuple[_FollowedStream, ...] = ()
        self._open = 0
        self._paused, self._shown = False, 0  # whether the dispatcher counts what is shown, and its count before
        self._all = True  # whether no observer filters what it follows
        self._credit, self._ticked = float("inf"), 0.0  # seconds that may be spent on records; when it was counted
        self._here: deque[bytes] = deque()
        self._missed_here = 0
        self._waking = self._forgotten = False
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
            diagnose(f"protocol error from an observer (pid {observer.pid}); its connection is closed: {text}")
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
            stream = _FollowedStream(follow, (observer,))
            wanted = [each for each in self._backlog() if stream.ranks is None or info_of(each).rank in stream.ranks]
            for record in [each for each in wanted if each.levelno >= follow.level][-follow.backlog :]:
                stream.add(record)
            stream.ship()
        observer.follows = follow
        self._divide()

    def _divide(self) -> None:
        """Make a stream for each kind of following, and let the dispatcher pass on what it shows while there is any."""
        self._resume()
        for stream in self._streams:
            stream.ship()
        kinds: dict[tuple[int, frozenset[int] | None], list[_Observer]] = {}
        for each in self._observers:
            if each.follows is not None:
                ranks = None if each.follows.ranks is None else frozenset(each.follows.ranks)
                kinds.setdefault((each.follows.level, ranks), []).append(each)
        followed = [observers for observers in kinds.values() if observers[0].follows is not None]
        self._streams = tuple(_FollowedStream(each[0].follows, each) for each in followed)  # type: ignore[arg-type]  # see above
        self._all = all(stream.level == 0 and stream.ranks is None for stream in self._streams)
        self._dispatcher.tap = self if self._streams else None

    # -- to observers ----------------------------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord) -> None:
        """Take a record that handlers get."""
        began = monotonic()
        for stream in self._streams:
            try:
                stream.add(record)
            except Exception as failure:  # the handlers get it in any case
                diagnose(f"a record cannot be sent to observers: {describe(failure)}")
        self._credit -= monotonic() - began
        if self._credit <= 0:
            for stream in self._streams:
                stream.open = False
        if self._all and not any(stream.open for stream in self._streams):
            self._pause()

    def _pause(self) -> None:
        """Take no records until the end of the tick. The dispatcher counts them."""
        if not self._paused:
            self._paused, self._shown = True, self._dispatcher.shown
            self._dispatcher.pause_tap(True)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            for stream in self._streams:
                stream.skip(self._dispatcher.shown - self._shown)
            self._dispatcher.pause_tap(False)

    def end_bar(self, record: logging.LogRecord) -> None:
        """Take the notice that a progress state has ended, as `UpstreamHandler.end_bar` does."""
        info = info_of(record)
        self.handle(MeshRecord.of({**record.__dict__, "msg": ""}, info.but(raw="", progress=True, partial=True)))

    def handle_elsewhere(self, record: logging.LogRecord) -> None:
        """Take a record that another thread of this process shows itself. Any thread."""
        if self._forgotten:
            return
        if len(self._here) >= MAX_HERE:
            self._missed_here += 1
            return
        info = info_of(record)
        plain = copy.copy(record)
        for name, value in own_fields().items():
            if plain.__dict__.get(name) is value:
                del plain.__dict__[name]
        self._here.append(RecordEncoder(plain, info.route)(SchemaTable()).data)
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
                self.handle(template.build(values))
            self._decoder.touched.clear()
            self._decoder.texts.clear()
        missed, self._missed_here = self._missed_here, 0
        for stream in self._streams:
            stream.skip(missed)

    def end_tick(self, behind: bool = False) -> None:
        """Send what was shown since the last call. `behind`: the client has not shown all that it has received."""
        if not self._streams:
            return
        now = monotonic()
        earned = SHARE * (now - self._ticked)
        self._credit = min(self._credit + earned, _MAX_CREDIT_SEC) if behind else float("inf")
        self._ticked = now
        self._resume()
        for stream in self._streams:
            stream.ship()
        if self._all and not any(stream.open for stream in self._streams):
            self._pause()
        for observer in tuple(self._observers):
            if observer.follows is not None:
                if observer.missed and observer.has_room(_SEGMENT):
                    observer.tell_missed()
                self._write(observer)

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
        self._resume()
        self._dispatcher.tap, self._streams = None, ()
        deadline = deadline_after(_LAST_SEC)
        for observer in tuple(self._observers):
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
        self._forgotten = True
        self._dispatcher.pause_tap(True)  # not `tap`, which takes locks that another thread may have held at the fork
        for observer in self._observers:
            observer.sock.close()
