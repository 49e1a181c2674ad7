"""The connection of a relay to its upstream client: records go up in a separate journal, commands come down.

::

    relay's client -> UpstreamHandler -> journal -> LogForwarder -> upstream client
    upstream client -> commands -> Uplink thread -> relay
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from ... import settings
from ...errors import MeshlogError, ProtocolError
from ...protocol.encode import EncodedRecord, SchemaTable
from ...protocol.messages import Command, Goodbye, Hello, KeepWaiting, Message, Release, decode
from ...protocol.record import MeshRecord, info_of
from ...protocol.relay_messages import RankGranted, RankRequest
from ...protocol.relayed_records import encode_relayed
from ...system.diagnostics import diagnose
from ...transport.channel import Address, connect
from ...transport.run_directory import RunDir
from ...worker.forwarder import LogForwarder
from ...worker.member import make_journal
from ...worker.record_stream import RecordStream, internal_threads
from ..downstream.relayed_peers import MAX_HELD
from .underway import LinesUnderway

_SHIP_SEC: Final = 2.0
_GOODBYE_SEC: Final = 0.5
_JOURNAL_FACTOR: Final = 8
_MAX_ROOM: Final = MAX_HELD // 4


class UpstreamHandler:
    """The handler of a relay's client: appends records to the stream to the upstream client. Client thread only."""

    level = logging.NOTSET

    def __init__(self, stream: RecordStream) -> None:
        self._stream = stream
        self.passed_bytes = 0
        self.lines = LinesUnderway()

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass a record on. Blocks, as a logging call does, while the upstream client has no room."""
        self._stream.append_encoded(record.levelno, partial(self._encode, record))
        self.lines.passed(info_of(record))
        return True

    def _encode(self, record: logging.LogRecord, table: SchemaTable) -> EncodedRecord:
        encoded = encode_relayed(record, table)
        self.passed_bytes += len(encoded.data)
        return encoded

    def end_bar(self, record: logging.LogRecord) -> None:
        """Pass on that a progress state has ended, without its text."""
        info = info_of(record)
        fields = {**record.__dict__, "msg": ""}
        self.handle(MeshRecord.of(fields, info.but(raw="", progress=True, partial=True)))

    def flush(self) -> None:
        """Return at once: the forwarder sends appended records by itself."""


class Uplink:
    """The connection of a relay to its upstream client; `ConnectError` if it cannot be made.

    Any thread may call its methods. `tunnel` is a connected socket, for a client whose socket cannot be reached. By its run
    `directory`, the client knows whose replacement the relay is.
    """

    def __init__(self, address: str, tunnel: socket.socket | None, directory: RunDir) -> None:
        self.directory = directory
        hello = Hello(
            pid=os.getpid(),
            hostname=socket.gethostname(),
            rank=None,
            local_rank=None,
            mesh="",
            captured=(),
            forwarding=True,
            started=time.time(),
            relay=True,
            resumes=directory.path,
        )
        self._link, welcome = connect(Address.parse(address), hello, (), tunnel)
        self.replaceable = welcome.retains and tunnel is None  # a relay may be, at the same address
        # Through a tunnel, the client cannot read a journal file after this process ends. Then memory is enough.
        self._forwarder = LogForwarder(self._link)
        path = welcome.journal if tunnel is None else ""
        self.stream = RecordStream(make_journal(path, _JOURNAL_FACTOR * settings.journal_size()), "block", self._forwarder.wake)
        self.handler = UpstreamHandler(self.stream)
        self._forwarder.attach(self.stream)
        try:
            self._forwarder.start()
        except BaseException:  # no thread can be started
            self._link.send_last(Goodbye(), _GOODBYE_SEC)
            self._link.forget()
            self.stream.part()
            raise
        self._left = self._released = False
        self.lost = False
        self._thread: threading.Thread | None = None
        self._claims: dict[int, Callable[[RankGranted], None]] = {}
        self._numbers = itertools.count(1)

    def start(self, carry_out: Callable[[Command], None], released: Callable[[], None], lost: Callable[[], None]) -> None:
        """Start the thread that receives commands, and calls `carry_out` with each of them.

        `released` is called when the upstream client is about to end and waits for this relay to close, `lost` when the
        connection is closed. Each of the two runs in a new thread.
        """
        arguments = carry_out, released, lost
        self._thread = threading.Thread(target=self._run, args=arguments, name="meshlog-uplink", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Send a message soon. Never blocks. An upstream client that reads no messages counts as gone."""
        if not self._forwarder.post(message):
            self._link.close()

    def claim(self, journal: str, granted: Callable[[RankGranted], None]) -> Callable[[], object]:
        """Ask for a rank, or for what is known of a journal; `granted` is called with it, on any thread.

        Returns a function that withdraws the request.
        """
        request = next(self._numbers)
        self._claims[request] = granted
        self.send(RankRequest(request, journal))
        return partial(self._claims.pop, request, None)

    def granted(self, answer: RankGranted) -> None:
        """Note the answer to a claim."""
        granted = self._claims.pop(answer.request, None)
        if granted is not None:
            granted(answer)

    @property
    def place(self) -> tuple[int, int]:
        """The end of what was passed on."""
        return self.stream.journal.place

    @property
    def postponed(self) -> bool:
        """Whether sentinels wait for room in the stream."""
        return self.stream.postponed

    @property
    def passed_bytes(self) -> int:
        """The bytes that were passed on."""
        return self.handler.passed_bytes

    @property
    def lines(self) -> LinesUnderway:
        """The captured lines that were passed on and are not confirmed."""
        return self.handler.lines

    @property
    def room(self) -> int:
        """How many bytes may be on their way: a part of the stream, so that passing on never waits."""
        return min(self.stream.journal.size // 4, _MAX_ROOM)

    def append_flush(self, version: int) -> None:
        """Acknowledge a flush, after all records that were passed on before."""
        self.stream.append_flush(version)

    def cut(self) -> None:
        """Close the connection as if it had been lost. What was not passed on stays in the journals of the workers."""
        self._left = self.lost = True
        self._link.close()  # the forwarder may wait for room in it
        self._forwarder.pause()
        self.stream.lose_client()

    def leave_lost(self) -> None:
        """Close what is left of a lost connection. Nobody will read its journal."""
        path, self._left = self.stream.journal.path, True
        self._link.close()
        self._forwarder.enqueue_sentinel()
        self._forwarder.wait_ended(_SHIP_SEC)
        self.stream.part()
        if self._thread is not None:
            self._thread.join(_GOODBYE_SEC)
        self._link.forget()
        if path is not None:
            with contextlib.suppress(OSError):  # its directory was removed
                os.unlink(path)

    def leave(self) -> None:
        """Send what is pending and close the connection. Waits while the upstream client makes progress."""
        self._left = True
        self._forwarder.finish(Goodbye())
        ended, moves = self._forwarder.wait_ended(0.0), -1
        while not ended and moves != self.stream.moves:
            moves = self.stream.moves
            ended = self._forwarder.wait_ended(_SHIP_SEC)
        if not ended:  # else it has sent the goodbye, or the connection is closed
            self._link.send_last(Goodbye(), _GOODBYE_SEC)
        self.stream.part()
        self._link.close()
        if self._thread is None or not self._thread.is_alive():
            self._link.forget()  # else the thread closes it, because it may be in a read
        else:
            self._thread.join(_GOODBYE_SEC)

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's connection and journal."""
        self._left = True
        self.stream.lose_client()
        self.stream.journal.close()
        self._link.forget()

    def _run(self, carry_out: Callable[[Command], None], released: Callable[[], None], lost: Callable[[], None]) -> None:
        internal_threads.add(threading.get_ident())
        try:
            while True:
                encoded = self._link.receive(None)
                if encoded is None:
                    continue
                command: Message = decode(encoded, Command, KeepWaiting, Release)
                if isinstance(command, Command):
                    carry_out(command)
                elif isinstance(command, Release):
                    self._released = True
                    threading.Thread(target=released, name="meshlog-relay-end", daemon=True).start()
                else:
                    self.stream.client_moves()
        except (OSError, EOFError, MeshlogError) as failure:
            if isinstance(failure, ProtocolError):
                diagnose(f"unexpected message from the upstream client: {failure}")
            self.stream.lose_client()
            if not self._left and not self._released:
                self.lost = True
                self._forwarder.pause()  # else each record would start its thread again
                threading.Thread(target=lost, name="meshlog-relay-end", daemon=True).start()
        finally:
            if self._left:
                self._link.forget()
            internal_threads.discard(threading.get_ident())
