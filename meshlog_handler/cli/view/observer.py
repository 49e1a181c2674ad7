"""Observer: joins a running client from another process of the same user, asks it, and follows what it shows.

::

    runs() -> Observer.connect(run) -> .about() .stats() .insight() .stacks() .flush() .set_level() .follow()
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final

from ... import errors, settings
from ...client.flushes.receipt import FlushReceipt
from ...client.health.stack_collector import merged_found
from ...client.peers.stats import RankStats, Stats
from ...errors import BusyError, ClosedError, ConnectError, FlushTimeout, MeshlogError, ProtocolError, RankError
from ...insight.call_tree import Unanswered
from ...insight.observation import Observation
from ...insight.report import Insight, insight_of
from ...insight.stacks import Stacks, encode_unanswered
from ...protocol.codec import unpack
from ...protocol.decode import Item, RecordDecoder, no_side_file
from ...protocol.frames import CONTROL, DATA, MAX_CONTROL, FrameReader, frame
from ...protocol.messages import Hello, Message, decode
from ...protocol.observer_messages import (
    MAX_BACKLOG,
    Ask,
    AskAbout,
    AskFlush,
    AskInsight,
    AskLevel,
    AskStacks,
    AskStats,
    Follow,
    Missed,
    Reply,
)
from ...protocol.ranks import format_ranks
from ...protocol.relayed_records import RelayedTemplate
from ...system.descriptors import is_readable
from ...system.waits import capped, check_timeout, deadline_after, seconds_until
from ...transport.channel import Address, connect
from ...transport.runs import Run, runs

__all__ = ["Observer", "Run", "runs"]

ANSWER_SEC: Final = 10.0
"""Seconds to wait for an answer, besides those that the client may take for it."""

_READ: Final = 256 * 1024
_MAX_HELD: Final = 32 << 20  # bytes that arrive while it waits for an answer
_WITHOUT_LIMIT: Final = 3600.0
_NOTHING: Final = Missed(0, 0)


class Observer:
    """A connection to a running client.

    Attributes
    ----------
    dropped : int
        Records that were shown and did not come here, because this observer was too slow. Errors are kept longest. With a
        `level` or with `ranks` to follow, the greatest number possible: of records that are left out, nothing else is known.
    dropped_errors : int
        Those of level ERROR and above among them.

    Notes
    -----
    One thread at a time may use it. Another connection costs little: use one to follow and one to ask.
    Every question raises `ClosedError` if the client has ended, and `BusyError` if it does not answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = FrameReader(MAX_CONTROL)
        self._numbers = itertools.count(1)
        self._segments: deque[tuple[bytes, Missed]] = deque()  # each with what was left out before it
        self._replies: dict[int, Reply] = {}
        self._held = 0
        self._left_out = _NOTHING
        self._ended = False
        self._decoder = RecordDecoder({}, no_side_file, None, RelayedTemplate)
        self.dropped = self.dropped_errors = 0

    @classmethod
    def connect(cls, run: Run | str) -> Observer:
        """Join a client, given by its `Run` or its address.

        Raises
        ------
        ConnectError
            If it has ended, or does not admit this observer.
        """
        address = Address.parse(run.address if isinstance(run, Run) else run)
        hello = Hello(os.getpid(), socket.gethostname(), None, None, "", (), False, time.time(), observer=True)
        try:
            link, _ = connect(address, hello, ())
        except ConnectError as failure:
            raise ConnectError(
                f"the client at {address.path} cannot be observed. It has ended, or it was started with {settings.OBSERVE}=0, "
                f"or it has too many observers ({failure.__cause__ or failure})"
            ) from failure
        return cls(link.release())

    def close(self) -> None:
        """Disconnect. A second call does nothing."""
        self._ended = True
        self._sock.close()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- questions -------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """Return what the client is.

        The keys are ``pid``, ``command``, ``since`` (seconds since the epoch), ``now``, ``hostname``, ``version``, ``ranks``
        (all so far) and ``live`` (tuples), ``records`` (received records and lines) and ``shown``.
        """
        told = self._ask(AskAbout(self._number()))
        if not isinstance(told, dict):
            raise ProtocolError("malformed answer: expected what the client is")
        return told

    def stats(self) -> Stats:
        """Return exact counters per rank, as `LogClient.stats` does."""
        told = self._ask(AskStats(self._number()))
        try:
            counters, hidden, shown = told
            ranks: dict[Any, RankStats] = {}
            for rank, each in counters:
                ranks[rank] = RankStats.of(0, each)
                ranks[rank].rank = rank if isinstance(rank, int) else None
            return Stats(ranks, hidden, shown)
        except (TypeError, ValueError) as cause:
            raise ProtocolError(f"malformed answer: expected counters: {cause}") from None

    def insight(self, ranks: Iterable[int] | int | None = None) -> Insight:
        """Return which ranks are silent, behind, different or failed, as `LogClient.insight` does."""
        told: Any = unpack(self._ask(AskInsight(self._number())))
        return insight_of([Observation.of(unpack(each)) for each in told], settings.check_ranks(ranks))

    def stacks(self, ranks: Iterable[int] | int | None = None, timeout: float | None = 5.0) -> Stacks:
        """Return the Python stacks of all threads of these ranks (None: all), merged, as `LogClient.stacks` does."""
        wanted = settings.check_ranks(ranks)
        seconds = _limited(timeout)
        answers, found = self._ask(AskStacks(self._number(), wanted, seconds), seconds)
        absent = encode_unanswered(Unanswered(None, "", "", "there was no room for its stacks"))
        told = [(rank, found[place] if 0 <= place < len(found) else absent) for rank, place in answers]
        return merged_found(told, wanted or ())

    def flush(self, timeout: float | None = 10.0) -> FlushReceipt:
        """Wait until everything that was logged and printed before this call is shown, as `LogClient.flush` does.

        Raises
        ------
        FlushTimeout
            If ranks did not answer in time. Its receipt names them.
        """
        seconds = _limited(timeout)
        return _receipt(self._ask(AskFlush(self._number(), seconds), seconds))

    def set_level(
        self,
        level: int | str,
        logger: str | None = None,
        ranks: Iterable[int] | int | None = None,
        for_sec: float | None = None,
    ) -> tuple[int, ...]:
        """Set the level of a logger in the ranks; return the ranks that have applied it.

        Parameters
        ----------
        level : int or str
            0 to 255, or a name.
        logger : str or None
            Name of the logger; None is the root logger.
        ranks : int, iterable of int, or None
            The ranks to change; None: all, and, without `for_sec`, those that join later.
        for_sec : float or None
            Seconds after which each rank restores the level by itself.

        Raises
        ------
        SettingError
            If a value is invalid.
        RankError
            If ranks did not apply it; it has their reasons.
        """
        number, wanted = settings.check_level(level), settings.check_ranks(ranks)
        for_sec = settings.check_window(for_sec, "for_sec")
        applied, refused = self._ask(AskLevel(self._number(), number, logger or "", wanted, for_sec))
        if refused:
            first = min(refused)
            raise RankError(f"{format_ranks(refused)} did not set the level: {refused[first]}", refused)
        return tuple(applied)

    # -- following -------------------------------------------------------------------------------------------------

    def follow(self, level: int = 0, ranks: Iterable[int] | int | None = None, backlog: int = 0) -> Iterator[logging.LogRecord]:
        """Yield each record that the client shows from now on, as its handlers get it, until the client ends.

        Parameters
        ----------
        level : int
            Only records of this level and above.
        ranks : int, iterable of int, or None
            Only records of these ranks; None: all, and those of the client itself.
        backlog : int
            Of the last records of each rank, which the client keeps, yield so many first.

        Notes
        -----
        It may be called once. What it was too slow for is counted in `dropped`.
        """
        self.start_following(level, ranks, backlog)
        return self._records()

    def _records(self) -> Iterator[logging.LogRecord]:
        while (items := self.items(None)) is not None:
            for _, template, values in items:
                if not template.is_shown(values):
                    yield template.build(values)

    def start_following(self, level: int = 0, ranks: Iterable[int] | int | None = None, backlog: int = 0) -> None:
        """Ask for what `items` then returns. Returns when the client has begun."""
        wanted = settings.check_ranks(ranks)
        self._send(Follow(settings.check_level(level), wanted, min(max(0, backlog), MAX_BACKLOG)))
        self.about()  # questions are answered in order

    def items(self, timeout: float | None) -> list[Item] | None:
        """Return the next items, and None after the client has ended.

        It returns none after `timeout` seconds (None: no limit), or when only `dropped` has changed.
        """
        deadline = deadline_after(timeout)
        while not self._segments:
            if self._left_out.count:
                self._drop(self._left_out)
                self._left_out = _NOTHING
                return []
            if not self._receive(deadline):
                return None if self._ended else []
        segment, left_out = self._segments.popleft()
        self._held -= len(segment)
        self._drop(left_out)
        return self._decoded(segment)

    def _drop(self, missed: Missed) -> None:
        self.dropped += missed.count
        self.dropped_errors += missed.errors

    def hold(self, timeout: float) -> bool:
        """Read what arrives within `timeout` seconds, for `items`; return False if nothing does, or the client has ended."""
        return self._receive(deadline_after(timeout))

    def await_end(self, timeout: float) -> bool:
        """Return whether the client has ended, after at most `timeout` seconds."""
        if self._ended:
            return True
        poll = select.poll()
        poll.register(self._sock, 0)  # its end is always reported
        return bool(poll.poll(capped(timeout) * 1000))

    # -- the connection --------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor of the connection, for `select`."""
        return self._sock.fileno()

    def _number(self) -> int:
        return next(self._numbers)

    def _send(self, message: Message) -> None:
        try:
            self._sock.sendall(frame(CONTROL, message.encode()))
        except OSError as failure:
            raise ClosedError("the client has ended.") from failure

    def _ask(self, question: Ask, seconds: float = 0.0) -> Any:
        """Return the answer to a question, for which the client may take `seconds`."""
        self._send(question)
        deadline = deadline_after(seconds + ANSWER_SEC)
        while question.request not in self._replies:
            if not self._receive(deadline):
                if self._ended:
                    raise ClosedError("the client has ended.")
                raise BusyError(
                    f"the client gave no answer within {seconds + ANSWER_SEC:g} s: it is stopped, or a handler blocks it."
                )
        reply = self._replies.pop(question.request)
        value = unpack(reply.value)
        if not reply.fault:
            return value
        if reply.fault == "FlushTimeout":
            raise FlushTimeout(reply.error, _receipt(value))
        kind = getattr(errors, reply.fault, MeshlogError)
        simple = isinstance(kind, type) and issubclass(kind, MeshlogError) and not issubclass(kind, (RankError, FlushTimeout))
        raise (kind if simple else MeshlogError)(reply.error)

    def _receive(self, deadline: float) -> bool:
        """Read once; False at the deadline, or after the client has ended."""
        if self._ended:
            return False
        try:
            if not is_readable(self._sock.fileno(), seconds_until(deadline)):
                return False
            data = self._sock.recv(_READ)
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return False
        for kind, payload in self._frames.feed(data):
            if kind == DATA:
                self._hold(payload)
            elif kind == CONTROL:
                message = decode(payload, Reply, Missed)
                if isinstance(message, Reply):
                    self._replies[message.request] = message
                elif isinstance(message, Missed):
                    self._leave_out(message.count, message.errors)
            else:
                raise ProtocolError(f"unexpected frame of kind {kind}")
        return True

    def _hold(self, segment: bytes) -> None:
        if self._held + len(segment) > _MAX_HELD:
            levels = [template.levelno for _, template, _ in self._decoded(segment) if template is not None]
            self._leave_out(len(levels), sum(level >= logging.ERROR for level in levels))
            return
        self._held += len(segment)
        self._segments.append((segment, self._left_out))
        self._left_out = _NOTHING

    def _leave_out(self, count: int, errors: int) -> None:
        self._left_out = Missed(self._left_out.count + count, self._left_out.errors + errors)

    def _decoded(self, segment: bytes) -> list[Item]:
        items: list[Item] = []
        at = 0
        self._decoder.new_segment()
        while at < len(segment):
            at = self._decoder.decode(segment, at, len(segment), items)
        return items


def _receipt(value: Any) -> FlushReceipt:
    try:
        return FlushReceipt(**{**value, "hosts": tuple(value.get("hosts", ()))})
    except TypeError as cause:
        raise ProtocolError(f"malformed answer: expected a receipt: {cause}") from None


def _limited(timeout: float | None) -> float:
    return min(check_timeout(timeout), _WITHOUT_LIMIT)
