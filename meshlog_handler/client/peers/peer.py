"""Peer: the client's view of one connection, with its stream, pipes, journal and counters. Client thread only."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ...errors import ProtocolError, printable, quoted
from ...insight.watch import Watch
from ...journal.layout import DROP_REASONS, START
from ...journal.marking import MarkedDecoder
from ...journal.reader import JournalReader
from ...journal.shown import ShownMark
from ...journal.side_files import ReadSideFiles
from ...lines.captured import CapturedPipe
from ...protocol.codec import unpack
from ...protocol.decode import ASIDE_COST, Item, RecordDecoder, TaggedTemplate
from ...protocol.entries import FLUSH, LARGE, RECORD, number_entry, walk
from ...protocol.frames import CONTROL, DATA, DROPPED, POSITION, FrameReader
from ...protocol.messages import (
    Answer,
    Command,
    Complete,
    Ending,
    Flush,
    Goodbye,
    Hello,
    Message,
    ParentDeath,
    Relabel,
    StackSignal,
    decode,
)
from ...protocol.relay_messages import DownstreamReached, Passed
from ...system.error_reports import Tell
from .stats import RankStats
from .tail import TAIL, Tail

if TYPE_CHECKING:
    from ...dispatch.era import Era

_MAX_LOSSES: Final = 1024
_MAX_UNCAUGHT: Final = 256


class Piece(NamedTuple):
    """A byte range of a worker's stream, received or read from its journal. `known`: its records were shown before."""

    generation: int
    start: int
    data: bytes
    replayed: bool
    known: bool = False

    def split(self, position: int) -> tuple[Piece, Piece]:
        """Return the parts before and from a position within it."""
        at = position - self.start
        return self._replace(data=self.data[:at]), self._replace(start=position, data=self.data[at:])


class Target(Hashable, Protocol):
    """A target of commands and flushes: a connected worker, or one downstream of a relay."""

    @property
    def mesh(self) -> str:
        """The token of its mesh, or ""."""

    @property
    def rank(self) -> int | None:
        """Its rank; None is the client's own process."""


Chosen = Callable[[Target], bool]
"""Returns whether a target is chosen."""


def of_ranks(ranks: Iterable[int] | None) -> Chosen | None:
    """Return what chooses the targets with these ranks (None: all)."""
    if ranks is None:
        return None
    wanted = frozenset(ranks)
    return lambda target: target.rank in wanted


@dataclass(eq=False)
class Turn:
    """What changes at a switch (see `Switches`): whether the worker is shown (None: no change), and the era."""

    streaming: bool | None
    era: Era | None = None


class Life(IntEnum):
    """How far the life of a peer has come. It only advances; `Reactor` alone changes it."""

    CONNECTED = 0  # also an external peer, whose output is all that comes
    DISCONNECTED = 1  # the connection is closed, and the process may still run
    ENDED = 2  # nothing more is sent; what was received is still to be taken, and then what the pipes and the journal hold
    REPLAYED = 3  # what the journal held was received
    FINISHED = 4  # everything was taken: the peer is to be removed once it has been shown
    REMOVED = 5


class Peer:
    """One worker, from its first frame to the last byte of its journal.

    Parameters
    ----------
    sock : socket.socket or None
        The authenticated connection; the peer makes it non-blocking. None: an external process (see `LogClient.adopt`), whose
        starter has redirected its output into `pipes` and reports its exit code. Its records come by another connection and
        peer. An ``output_only`` process is external too, but the client detects its end itself.
    hello : Hello
        The identity that the worker sent; `rank` is the one that the client uses.
    journal : str
        The path of its journal, as the client assigned it.
    pipes : dict[str, int]
        Read ends of its captured streams by name.
    client : str or None
        The token of the client, for `MeshInfo.client`.
    mark : ShownMark or None
        The mark of its journal, if it takes part in a job. `handed_over`: the next client of the job shows the rest.
    """

    # There may be ten thousand: without a dictionary each is 1.5 kB smaller.
    __slots__ = (
        "_at",
        "_decoder",
        "_decoding",
        "_frames",
        "_generation",
        "_kept",
        "_known",
        "_losses",
        "_position",
        "_resumed_at",
        "_taken",
        "caught_up",
        "era",
        "exitcode",
        "external",
        "handed_over",
        "hello",
        "identity",
        "inbox",
        "inbox_bytes",
        "journal",
        "left",
        "life",
        "mark",
        "mesh",
        "name",
        "outbox",
        "parent_death",
        "pid",
        "pidfd",
        "pipes",
        "popen",
        "rank",
        "reached",
        "released",
        "sides",
        "sock",
        "stack_signal",
        "stats",
        "streaming",
        "tail",
        "turns",
        "uncaught",
        "unreported",
        "watch",
        "watched",
        "writing",
    )
    relays = False
    ahead: float = 0.0
    """Seconds by which the clock of its host is ahead."""

    accepts: tuple[type[Message], ...] = (Answer, Complete, Ending, Goodbye, ParentDeath, Relabel, StackSignal)

    def __init__(
        self,
        sock: socket.socket | None,
        hello: Hello,
        *,
        rank: int | None,
        journal: str,
        pipes: Mapping[str, int],
        coords: Mapping[str, int | str],
        max_line: int,
        process: int,
        relayed: type[TaggedTemplate] | None = None,
        client: str | None = None,
        mark: ShownMark | None = None,
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
            "client": client,
        }
        self.pipes = self._captured(pipes, max_line) if pipes else []
        self.pidfd = -1
        self.popen: Any = None
        self.streaming = True
        self.parent_death: ParentDeath | None = None
        self.stack_signal: StackSignal | None = None
        self.era: Era | None = None  # None: the current settings apply
        self.turns: dict[int, Turn] = {}  # switches that it has not passed yet, in order
        self.left = False
        self.released = False
        self.life = Life.CONNECTED
        self.caught_up = 0
        self.exitcode: int | None = None
        self.uncaught: str | None = None
        self.inbox: list[Piece] = []  # a list, as those below: most are empty or short, and a deque takes 0.7 kB
        self.inbox_bytes = 0
        self.outbox = bytearray()
        self.tail = Tail()
        self.unreported: dict[tuple[str, int], int] = {}
        self.reached: dict[int, DownstreamReached | None] = {}  # by the version of an open flush
        self._losses: dict[tuple[str, int], int] = {}
        self._frames = FrameReader()
        self.sides = ReadSideFiles(journal)
        self.mark = mark
        self.handed_over = False
        self._decoder = (
            RecordDecoder(self.identity, self.sides.read, self, relayed)
            if mark is None
            else MarkedDecoder(self.identity, self.sides, self, mark)
        )
        self.watch = Watch()
        self._generation = 0 if mark is None else mark.shown[0]
        self._kept = False  # whether its journal was a file when the first data arrived
        self._position = START
        self._known: tuple[int, int] | None = None
        self._resumed_at = 0, START
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
        return [CapturedPipe(fd, stream, base=base, identity=self.identity, max_line=max_line) for stream, fd in pipes.items()]

    def advance(self, life: Life) -> None:
        """Come to a later part of the life; do nothing if this peer is further already. Called by the reactor."""
        self.life = max(self.life, life)

    @property
    def ended(self) -> bool:
        """Whether nothing more is sent."""
        return self.life >= Life.ENDED

    def forget_journal(self) -> None:
        """Do not read the journal: its records were counted as not shown. Any thread."""
        self._kept, self.journal = False, ""

    @property
    def coords(self) -> dict[str, int | str]:
        """Its coordinates. A change here applies to all of its later records."""
        return self.identity["coords"]  # type: ignore[return-value]  # see `__init__`

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of this connection."""
        return () if self.rank is None else (self.rank,)

    @property
    def unanswered(self) -> str:
        """Why a flush gets no answer, if the peer has no rank by which the receipt could name it."""
        return ""

    def take_read(self) -> list[Item]:
        """Return what was read from an ordinary queue (see `QueuePeer`)."""
        return []

    def chosen(self, chosen: Chosen | None) -> Sequence[Target]:
        """Return the chosen targets of this connection: itself, or nothing."""
        return [self] if chosen is None or chosen(self) else []

    def flush_command(self, version: int, timeout: float, chosen: Chosen | None) -> Command:
        """Return the message that starts a flush."""
        return Flush(version)

    def command_for(self, command: Command, members: Sequence[Target]) -> Command:
        """Return the message that sends a command to `members`."""
        return command

    def counters(self) -> Mapping[int | None, RankStats]:
        """Return the counters of the ranks of this connection."""
        return {self.rank: self.stats}

    def note(self, message: Message) -> bool:
        """Apply a message that must take effect before later records are shown; True if it needs no further handling."""
        if isinstance(message, Relabel):
            self.coords.clear()
            self.coords.update(message.coords)
            return True
        if isinstance(message, ParentDeath):
            self.parent_death = message
            return True
        if isinstance(message, StackSignal):
            self.stack_signal = message
            return True
        if isinstance(message, Ending):
            self.uncaught = printable(message.uncaught, _MAX_UNCAUGHT)
            return True
        return False

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes from the socket; return the messages among them. Raises `ProtocolError` if they are malformed."""
        self.stats.last_seen = time.time()
        messages: list[Message] = []
        for kind, payload in self._frames.feed(data):
            if kind == DATA:
                if len(payload) < POSITION.size:
                    raise ProtocolError("malformed data frame: no stream position")
                generation, start = POSITION.unpack_from(payload)
                self._admit(generation, start, payload[POSITION.size :], replayed=False)
            elif kind == DROPPED:
                self._note_drops(unpack(payload))
            elif kind == CONTROL:
                message = decode(payload, *self.accepts)
                if not self.note(message):
                    messages.append(message)
            else:
                raise ProtocolError(f"unexpected frame of kind {kind}")
        return messages

    def _admit(self, generation: int, start: int, data: bytes, *, replayed: bool) -> None:
        """Put a byte range of the stream into the inbox, without the bytes that were received before."""
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
            raise ProtocolError(f"the stream continues at {start}; expected {position}")
        if not self._generation and not replayed:
            self._kept = bool(self.journal) and os.path.exists(self.journal)
        self._generation, self._position = generation, start + len(data)
        piece = Piece(generation, start, data, replayed)
        if self._known is not None:
            piece = self._without_known(piece, *self._known)
        self.inbox.append(piece)
        self.inbox_bytes += len(piece.data)

    def _without_known(self, piece: Piece, generation: int, position: int) -> Piece:
        """Return what is new of a piece, after its known part."""
        end = piece.start + len(piece.data)
        if (piece.generation, piece.start) >= (generation, position):
            self._known = None
            return piece
        if piece.generation == generation and end > position:
            known, piece = piece.split(position)
            self._known = None
            self.inbox.append(known._replace(known=True))
            self.inbox_bytes += len(known.data)
            return piece
        return piece._replace(known=True)

    def resume(self, known: Passed) -> None:
        """Continue a stream that another relay has passed on up to a position. Its segment is read from its start."""
        self._generation, self._position = known.generation, START
        self._known = self._resumed_at = known.generation, known.position
        self._losses = {(reason, level): count for reason, level, count in known.drops}
        self.sides.begin_after(known.side)

    @property
    def resumed(self) -> bool:
        """Whether another connection had a part of its stream."""
        return self._resumed_at > (0, START)

    @property
    def place(self) -> tuple[int, int]:
        """Up to where the stream was received."""
        return self._generation, self._position

    def passed(self) -> Passed:
        """Return up to where the stream was taken."""
        first = self.inbox[0] if self.inbox else None
        place = (self._generation, self._position) if first is None else (first.generation, first.start + self._at)
        place = max(place, self._resumed_at)  # it may still read the known part
        drops = tuple((reason, level, count) for (reason, level), count in self._losses.items())
        return Passed(self.journal, self.rank or 0, *place, self.sides.last, self.stats.received, drops)

    def take(self, limit: int, items: list[Item]) -> int:
        """Append up to about `limit` items of the inbox to `items`; return how much of the limit was used.

        A record from a side file counts as one item for each KiB. If the stream cannot be read, raise `ProtocolError`
        and remove the unreadable bytes from the inbox, so that the rest can be taken.
        """
        before, done, left = len(items), 0, limit
        try:
            while done < len(self.inbox) and left > 0:
                piece = self.inbox[done]
                if piece.generation != self._decoding:
                    self._decoding = piece.generation
                    self._decoder.new_segment(piece.generation)
                if piece.known:
                    done += 1
                    self.inbox_bytes -= len(piece.data)
                    self._decoder.learn(piece.data)
                    continue
                count = len(items) - self._decoder.sentinels
                spent = len(items) + self._decoder.aside // ASIDE_COST
                began = self._at
                try:
                    self._at = self._decoder.decode(piece.data, self._at, left, items)
                except Exception:  # after any failure, these bytes are not tried again
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
            self.tail.add(items[max(before, len(items) - TAIL) :])
            if len(items) > before and not self.relays:
                self.watch.add_records(self._decoder, time.time(), self.stats.received + self.stats.lines)
        return limit - left

    @property
    def decoded(self) -> RecordDecoder:
        """The decoder, with what it has put aside for `watch`."""
        return self._decoder

    @property
    def taken(self) -> int:
        """The bytes of records taken so far."""
        return self._taken + self._decoder.aside

    def turn(self, number: int) -> None:
        """Pass a switch."""
        turn = self.turns.pop(number)
        self.era = turn.era
        if turn.streaming is not None:
            self.streaming = turn.streaming

    def replay(self, tell: Tell) -> None:
        """Read the records that were never sent from the journal. The worker has ended or left."""
        self.advance(Life.REPLAYED)
        if not self.journal or not os.path.exists(self.journal):
            if self._kept and not self.left:
                tell(
                    "the journal of a process was removed while it ran",
                    f"the journal of {self.name} (pid {self.pid}) was removed while it ran, perhaps by a cleaner of temporary "
                    f"files: records that it had not sent are lost",
                )
            return
        reader = JournalReader(self.journal)
        for piece in reader.ranges(self._generation, self._position):
            self._admit(piece.generation, piece.start, piece.data, replayed=True)
        self._note_drops(tuple(reader.drops()))

    def catch_up(self, version: int, tell: Tell) -> None:
        """Read the records that were not sent so far from the journal, then add the sentinel of flush `version`.

        The connection is closed but the process is alive: it has executed another program or has closed its descriptors. It may
        still log, so only records that are complete in a first read and unchanged in a second one are taken.
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
            text = f"the journal of rank {self.rank} (pid {self.pid}) cannot be read: {failure}"
            tell("the journal of a process cannot be read", text)
        sentinel = number_entry(FLUSH, version)
        self.inbox.append(Piece(self._generation, self._position, sentinel, replayed=False))
        self.inbox_bytes += len(sentinel)

    def waiting(self) -> int:
        """Return the number of records in the inbox and in the journal. Any thread, while the client's thread is blocked."""
        pieces = [piece.data for piece in self.inbox]
        pieces[:1] = [data[self._at :] for data in pieces[:1]]
        if self.journal and self.life < Life.REPLAYED and os.path.exists(self.journal):
            reader = JournalReader(self.journal)
            pieces += [piece.data for piece in reader.ranges(self._generation, self._position)]
        return sum(kind in (RECORD, LARGE) for data in pieces for kind, *_ in walk(data))

    def _note_drops(self, drops: object) -> None:
        if not isinstance(drops, tuple) or len(drops) > _MAX_LOSSES:
            raise ProtocolError("malformed drop counts: expected a tuple of (reason, level, count)")
        for drop in drops:
            if not isinstance(drop, tuple) or len(drop) != 3:
                raise ProtocolError("malformed drop count: expected (reason, level, count)")
            reason, level, count = drop
            if reason not in DROP_REASONS or not isinstance(level, int) or not isinstance(count, int):
                raise ProtocolError(f"malformed drop count: {quoted(drop)}")
            more = count - self._losses.get((reason, level), 0)
            if more > 0 and len(self._losses) < _MAX_LOSSES:
                self._losses[reason, level] = count
                self.count_drop(reason, level, more)

    def count_drop(self, reason: str, level: int, count: int) -> None:
        """Count records that will not be shown. The next drop report includes them."""
        self.stats.dropped[reason] = self.stats.dropped.get(reason, 0) + count
        self.unreported[reason, level] = self.unreported.get((reason, level), 0) + count

    def drop_report(self) -> str:
        """Return a message about the records dropped since the last report; "" if there are none."""
        parts = [
            f"dropped {count:,} records ({self.name}, {logging.getLevelName(level)}, {reason})"
            for (reason, level), count in sorted(self.unreported.items())
        ]
        self.unreported.clear()
        return "; ".join(parts)

    def journal_files(self) -> list[str]:
        """Return the paths of its journal and of its side files."""
        marks = [] if self.mark is None else [self.mark.path]
        return [self.journal, *marks, *self.sides.left] if self.journal else []

    def close_pidfd(self) -> None:
        """Close the pidfd, if it is open."""
        # Forget the number before closing it: a child forked in between must not close a descriptor that is closed there.
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def close(self, *, keep_journal: bool) -> None:
        """Close all descriptors except the pipes; remove the journal unless it is kept."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self.close_pidfd()
        if self.mark is not None:
            self.mark.close()
        if not keep_journal:
            for path in self.journal_files():
                with contextlib.suppress(OSError):  # never created, or removed by its owner
                    os.unlink(path)
        self.stats.alive = False
