"""What the client knows of one proc: its stream, its pipes, its journal, its counters. Used by the client's thread alone."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import ProtocolError
from ..journal.layout import DROP_REASONS, START
from ..journal.reader import JournalReader
from ..journal.side_files import ReadSideFiles
from ..lines.captured import CapturedPipe
from ..protocol.codec import unpack
from ..protocol.decode import ASIDE_COST, Item, RecordDecoder, TaggedTemplate
from ..protocol.entries import FLUSH, LARGE, RECORD, number_entry, walk
from ..protocol.frames import CONTROL, DATA, DROPPED, POSITION, FrameReader
from ..protocol.messages import Answer, Command, Ending, Flush, Goodbye, Hello, Leash, Message, Relabel, decode
from ..protocol.relay_messages import DownstreamReached
from ..system.fd_capture import diagnose
from .exit_reports import abridged
from .stats import RankStats

if TYPE_CHECKING:
    from ..dispatch.era import Era

TAIL: Final = 20
_MAX_LOSSES: Final = 1024
_MAX_UNCAUGHT: Final = 256


@dataclass(frozen=True)
class Piece:
    """A stretch of a proc's stream that was received, or read from its journal."""

    generation: int
    data: bytes
    replayed: bool


class Target(Hashable, Protocol):
    """What orders and flushes are for: a proc that is connected, or one below a relay."""

    @property
    def mesh(self) -> str:
        """The token of the mesh it belongs to, or ""."""

    @property
    def rank(self) -> int | None:
        """Its rank; None is the client's own process."""


Chosen = Callable[[Target], bool]
"""Which procs are meant."""


@dataclass(eq=False)
class Turn:
    """What is different behind a switch (see `Switches`): whether the proc is shown (None: as before), and the era."""

    streaming: bool | None
    era: Era | None = None


class Peer:
    """One proc, from its first frame to the last byte of its journal.

    Parameters
    ----------
    sock : socket.socket or None
        The authenticated connection, non-blocking from here on. None: the proc was adopted. Who started it led its
        output into `pipes` and says how it ends; what it logs comes by a connection, and a source, of its own. So it
        is with one that said of itself that it is ``output_only``, but for its end.
    hello : Hello
        Who it says it is; `rank` is what the client calls it.
    journal : str
        Where it was told to keep its journal.
    pipes : dict[str, int]
        Read ends of its captured streams by name.
    """

    # There may be ten thousand: without a dictionary each is 1.5 kB smaller.
    __slots__ = (
        "_at",
        "_decoder",
        "_decoding",
        "_frames",
        "_generation",
        "_kept",
        "_losses",
        "_position",
        "_taken",
        "caught_up",
        "ended",
        "era",
        "exitcode",
        "external",
        "hello",
        "identity",
        "inbox",
        "inbox_bytes",
        "journal",
        "leash",
        "left",
        "mesh",
        "name",
        "outbox",
        "pid",
        "pidfd",
        "pipes",
        "popen",
        "rank",
        "reached",
        "released",
        "replayed",
        "sides",
        "sock",
        "stats",
        "streaming",
        "tail",
        "turns",
        "uncaught",
        "unreported",
        "watched",
        "writing",
    )
    relays = False
    accepts: tuple[type[Message], ...] = (Answer, Ending, Goodbye, Leash, Relabel)

    def __init__(
        self,
        sock: socket.socket | None,
        hello: Hello,
        rank: int | None,
        journal: str,
        pipes: Mapping[str, int],
        coords: Mapping[str, int | str],
        max_line: int,
        process: int,
        relayed: type[TaggedTemplate] | None = None,
    ) -> None:
        if sock is not None:
            sock.setblocking(False)
        self.sock = sock
        self.external = sock is None or hello.output_only
        self.watched = sock is not None
        self.writing = False
        self.hello = hello
        self.rank = rank
        self.mesh = hello.mesh
        self.pid = process
        self.name = f"rank {rank}"
        self.stats = RankStats(rank, process, last_seen=time.time())
        self.journal = journal
        self.identity: dict[str, object] = {
            "rank": rank,
            "local_rank": hello.local_rank if hello.local_rank is not None else rank,
            "hostname": hello.hostname,
            "coords": dict(coords),
        }
        self.pipes = self._captured(pipes, max_line) if pipes else []
        self.pidfd = -1
        self.popen: Any = None
        self.streaming = True
        self.leash: Leash | None = None
        self.era: Era | None = None  # None: the settings of now hold
        self.turns: dict[int, Turn] = {}  # switches that it has still to pass, in their order
        self.left = False
        self.released = False
        self.ended = False
        self.replayed = False
        self.caught_up = 0
        self.exitcode: int | None = None
        self.uncaught: str | None = None
        self.inbox: list[Piece] = []  # this, and what follows: for most procs empty or short, where a deque has 0.7 kB
        self.inbox_bytes = 0
        self.outbox = bytearray()
        self.tail: list[Item] = []
        self.unreported: dict[tuple[str, int], int] = {}
        self.reached: dict[int, DownstreamReached | None] = {}  # by the version of an open flush
        self._losses: dict[tuple[str, int], int] = {}
        self._frames = FrameReader()
        self.sides = ReadSideFiles(journal)
        self._decoder = RecordDecoder(self.identity, self.sides.read, self, relayed)
        self._generation = 0
        self._kept = False  # whether its journal was a file when it was first heard
        self._position = START
        self._taken = 0
        self._decoding = 0
        self._at = 0

    def _captured(self, pipes: Mapping[str, int], max_line: int) -> list[CapturedPipe]:
        base = {
            **logging.makeLogRecord({}).__dict__,
            "args": (),
            "process": self.pid,
            "processName": None,
            "thread": None,
            "threadName": None,
        }
        return [CapturedPipe(fd, stream, base, self.identity, max_line) for stream, fd in pipes.items()]

    @property
    def coords(self) -> dict[str, int | str]:
        """Its coordinates; what is changed here is changed in all its records to come."""
        return self.identity["coords"]  # type: ignore[return-value]  # made so above

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks it speaks for."""
        return () if self.rank is None else (self.rank,)

    def chosen(self, chosen: Chosen | None) -> Sequence[Target]:
        """Return itself if it is meant, as who answers for it."""
        return [self] if chosen is None or chosen(self) else []

    def flush_command(self, version: int, timeout: float, chosen: Chosen | None) -> Command:
        """Return what to send for a flush."""
        return Flush(version)

    def command_for(self, command: Command, members: Sequence[Target]) -> Command:
        """Return what to send for an order."""
        return command

    def counters(self) -> Mapping[int | None, RankStats]:
        """Return the counters of the ranks it speaks for."""
        return {self.rank: self.stats}

    def note(self, message: Message) -> bool:
        """Note what must be known before the records behind it are shown; True if that is all there is to do."""
        if isinstance(message, Relabel):
            self.coords.clear()
            self.coords.update(message.coords)
            return True
        if isinstance(message, Leash):
            self.leash = message
            return True
        if isinstance(message, Ending):
            self.uncaught = message.uncaught[:_MAX_UNCAUGHT]
            return True
        return False

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes from the socket; return the messages among them.

        Raises
        ------
        ProtocolError
            If they are not what a proc sends.
        """
        self.stats.last_seen = time.time()
        messages: list[Message] = []
        for kind, payload in self._frames.feed(data):
            if kind == DATA:
                if len(payload) < POSITION.size:
                    raise ProtocolError("a stretch of a stream without its position")
                generation, start = POSITION.unpack_from(payload)
                self._admit(generation, start, payload[POSITION.size :], replayed=False)
            elif kind == DROPPED:
                self._note_drops(unpack(payload))
            elif kind == CONTROL:
                message = decode(payload, *self.accepts)
                if not self.note(message):
                    messages.append(message)
            else:
                raise ProtocolError(f"a proc does not send frames of kind {kind}")
        return messages

    def _admit(self, generation: int, start: int, data: bytes, *, replayed: bool) -> None:
        """Put a stretch of the stream into the inbox, without what was received before."""
        position = self._position if generation == self._generation else START
        if generation < self._generation or start < position:
            known = len(data) if generation < self._generation else min(len(data), position - start)
            self.stats.duplicates += sum(kind == RECORD for kind, *_ in walk(data[:known]))
            data = data[known:]
            start += known
            if generation < self._generation:
                return
        if not data:
            return
        if start > position:
            raise ProtocolError(f"the stream goes on at {start} where {position} was expected")
        if not self._generation and not replayed:
            self._kept = bool(self.journal) and os.path.exists(self.journal)
        self._generation, self._position = generation, start + len(data)
        self.inbox.append(Piece(generation, data, replayed))
        self.inbox_bytes += len(data)

    def take(self, limit: int, items: list[Item]) -> int:
        """Append up to about `limit` items of the inbox to `items`; return how much of the limit that was.

        A record from a side file counts for as many as it has KiB.

        Raises
        ------
        ProtocolError
            If the stream cannot be read; what is unreadable has left the inbox, so that the rest can be taken.
        """
        before, done, left = len(items), 0, limit
        try:
            while done < len(self.inbox) and left > 0:
                piece = self.inbox[done]
                if piece.generation != self._decoding:
                    self._decoding = piece.generation
                    self._decoder.new_segment()
                count = len(items) - self._decoder.sentinels
                spent = len(items) + self._decoder.aside // ASIDE_COST
                began = self._at
                try:
                    self._at = self._decoder.decode(piece.data, self._at, left, items)
                except Exception:  # whatever it is, these bytes are not tried again
                    self._at = len(piece.data)
                    raise
                finally:
                    left -= len(items) + self._decoder.aside // ASIDE_COST - spent
                    self._taken += self._at - began
                    records = len(items) - self._decoder.sentinels - count
                    self.stats.received += records
                    self.stats.last_seq += records
                    if piece.replayed:
                        self.stats.replayed += records
                    if self._at >= len(piece.data):
                        self._at = 0
                        done += 1
                        self.inbox_bytes -= len(piece.data)
        finally:
            del self.inbox[:done]
            self.remember(items[max(before, len(items) - TAIL) :])
        return limit - left

    @property
    def taken(self) -> int:
        """How many bytes of records were taken so far."""
        return self._taken + self._decoder.aside

    def turn(self, number: int) -> None:
        """Pass a switch."""
        turn = self.turns.pop(number)
        self.era = turn.era
        if turn.streaming is not None:
            self.streaming = turn.streaming

    def remember(self, items: Sequence[Item]) -> None:
        """Take note of what was brought last: the last words of the proc, should it die."""
        self.tail += map(abridged, items[-TAIL:])
        del self.tail[:-TAIL]

    def replay(self) -> None:
        """Read from the journal what was never shipped. The proc is dead, or has left."""
        self.replayed = True
        if not self.journal or not os.path.exists(self.journal):
            if self._kept and not self.left:
                diagnose(
                    f"the journal of {self.name} (pid {self.pid}) was removed while it ran, as by a cleaner of temporary "
                    f"files: what it had logged last, and not shipped, is lost"
                )
            return
        reader = JournalReader(self.journal)
        for piece in reader.ranges(self._generation, self._position):
            self._admit(piece.generation, piece.start, piece.data, replayed=True)
        self._note_drops(tuple(reader.drops()))

    def catch_up(self, version: int) -> None:
        """Read from the journal what was not shipped so far, then take in the sentinel of flush `version` by ourselves.

        The connection is over and the process goes on: it became another program, or has closed our descriptors. Then it
        may still log; so only what was whole at a first look is taken, as it is at a second one.
        """
        self.caught_up = version
        try:
            if self.journal and os.path.exists(self.journal):
                whole, reader = JournalReader(self.journal), JournalReader(self.journal)
                now = {piece.generation: piece.data for piece in reader.ranges(self._generation, self._position)}
                for piece in whole.ranges(self._generation, self._position):
                    data = now.get(piece.generation, b"")[: len(piece.data)]
                    self._admit(piece.generation, piece.start, data, replayed=True)
                self._note_drops(tuple(reader.drops()))
        except (OSError, ProtocolError) as failure:
            diagnose(f"the journal of rank {self.rank} (pid {self.pid}) cannot be read: {failure}")
        sentinel = number_entry(FLUSH, version)
        self.inbox.append(Piece(self._generation, sentinel, replayed=False))
        self.inbox_bytes += len(sentinel)

    def waiting(self) -> int:
        """Return how many records were received, or stand in the journal, and were not taken yet.

        Any thread, while the client's is held up.
        """
        pieces = [piece.data for piece in self.inbox]
        pieces[:1] = [data[self._at :] for data in pieces[:1]]
        if self.journal and not self.replayed and os.path.exists(self.journal):
            reader = JournalReader(self.journal)
            pieces += [piece.data for piece in reader.ranges(self._generation, self._position)]
        return sum(kind in (RECORD, LARGE) for data in pieces for kind, *_ in walk(data))

    def _note_drops(self, drops: object) -> None:
        if not isinstance(drops, tuple) or len(drops) > _MAX_LOSSES:
            raise ProtocolError("drops are a tuple of reason, level and count")
        for drop in drops:
            if not isinstance(drop, tuple) or len(drop) != 3:
                raise ProtocolError("a drop is a reason, a level and a count")
            reason, level, count = drop
            if reason not in DROP_REASONS or not isinstance(level, int) or not isinstance(count, int):
                raise ProtocolError(f"no drop is {drop!r}")
            more = count - self._losses.get((reason, level), 0)
            if more > 0 and len(self._losses) < _MAX_LOSSES:
                self._losses[reason, level] = count
                self.count_drop(reason, level, more)

    def count_drop(self, reason: str, level: int, count: int) -> None:
        """Count records that will not be shown; the next report names them."""
        self.stats.dropped[reason] = self.stats.dropped.get(reason, 0) + count
        self.unreported[reason, level] = self.unreported.get((reason, level), 0) + count

    def drop_report(self) -> str:
        """Return what was dropped since the last report, in words; "" if nothing was."""
        parts = [
            f"dropped {count:,} records ({self.name}, {logging.getLevelName(level)}, {reason})"
            for (reason, level), count in sorted(self.unreported.items())
        ]
        self.unreported.clear()
        return "; ".join(parts)

    def journal_files(self) -> list[str]:
        """Return the paths of its journal and of what was too large for that."""
        return [self.journal, *self.sides.kept] if self.journal else []

    def close_pidfd(self) -> None:
        """Close what tells of the end of the process, if it is open."""
        # First it is no longer known, then closed: a process forked in between must not close what is closed there.
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def close(self, *, keep_journal: bool) -> None:
        """Close what is open but the pipes; remove the journal unless it is kept."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self.close_pidfd()
        if self.journal and self.ended and not self.left:
            self.sides.remove_unreferenced()
        if not keep_journal:
            for path in self.journal_files():
                with contextlib.suppress(OSError):  # never made, or removed by its owner
                    os.unlink(path)
        self.stats.alive = False
