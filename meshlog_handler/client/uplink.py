"""A relay's way up: a stream of its own to the client above, and the orders that come down.

::

    relay's client -> PassOn -> journal -> LogForwarder -> client above
    client above -> orders -> Uplink thread -> whoever carries them out
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from .. import settings
from ..errors import MeshlogError, ProtocolError
from ..protocol.messages import Command, Goodbye, Hello, KeepWaiting, Message, Release, decode
from ..protocol.record import MeshRecord, info_of
from ..protocol.relayed_records import encode_relayed
from ..system.fd_capture import diagnose
from ..transport.channel import Address, connect
from ..worker.forwarder import LogForwarder
from ..worker.membership import make_journal
from ..worker.record_stream import RecordStream, internal_threads

_SHIP_SEC: Final = 2.0
_GOODBYE_SEC: Final = 0.5
_JOURNAL_FACTOR: Final = 8


class UpstreamHandler:
    """What a relay's client shows its records by: it appends them to the stream that goes up. The client's thread alone."""

    level = logging.NOTSET

    def __init__(self, stream: RecordStream) -> None:
        self._stream = stream

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass a record on. Waits, as a logging call does, while the client above has no room."""
        self._stream.append_encoded(record.levelno, partial(encode_relayed, record))
        return True

    def end_bar(self, record: logging.LogRecord) -> None:
        """Pass on that a progress state has ended, and nothing of its text."""
        info = info_of(record)
        fields = {**record.__dict__, "msg": ""}
        self.handle(MeshRecord.of(fields, info.but(raw="", progress=True, partial=True)))

    def flush(self) -> None:
        """Return at once: what is appended goes up by itself."""


class Uplink:
    """The connection of a relay with the client above it.

    `send` and `append_flush` may be called by any thread; `carry_out` is called on the uplink's own.

    Parameters
    ----------
    address : str
        Of the client above.
    tunnel : socket.socket or None
        The way there, where its socket cannot be reached from here.

    Raises
    ------
    ConnectError
        If that client cannot be joined.
    """

    def __init__(self, address: str, tunnel: socket.socket | None) -> None:
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
        )
        self._link, welcome = connect(Address.parse(address), hello, (), tunnel)
        # One that the client cannot read after our death is none to keep: with a tunnel, mere memory does.
        self._forwarder = LogForwarder(self._link)
        path = welcome.journal if tunnel is None else ""
        self.stream = RecordStream(make_journal(path, _JOURNAL_FACTOR * settings.journal_size()), "block", self._forwarder.wake)
        self._forwarder.attach(self.stream)
        self._forwarder.start()
        self._left = self._released = False
        self._thread: threading.Thread | None = None

    def start(self, carry_out: Callable[[Command], None], released: Callable[[], None], lost: Callable[[], None]) -> None:
        """Begin to hear orders.

        `released` is called when the client above is about to end and waits for this relay to leave, `lost` when it is gone;
        each on a thread of its own.
        """
        arguments = carry_out, released, lost
        self._thread = threading.Thread(target=self._run, args=arguments, name="meshlog-uplink", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Tell the client above. What cannot be told, it will not miss: it is gone."""
        try:
            self._link.send_message(message)
        except OSError:
            self.stream.lose_client()

    def append_flush(self, version: int) -> None:
        """Answer a flush, behind all that was passed on before."""
        self.stream.append_flush(version)

    def leave(self) -> None:
        """Ship what there is, and hang up. Waits for as long as the client above makes progress."""
        self._left = True
        self._forwarder.finish(Goodbye())
        thread, moves = self._forwarder._thread, -1
        while thread is not None and thread.is_alive() and moves != self.stream.moves:
            moves = self.stream.moves
            thread.join(_SHIP_SEC)
        if thread is not None and thread.is_alive():  # else it has said so, or the client above is gone
            self._link.send_last(Goodbye(), _GOODBYE_SEC)
        self.stream.part()
        self._link.close()
        if self._thread is None or not self._thread.is_alive():
            self._link.forget()  # else the thread does it, which may be in the middle of a read
        else:
            self._thread.join(_GOODBYE_SEC)

    def forget(self) -> None:
        """In a forked child: close this copy of what is the parent's."""
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
                diagnose(f"the client above sent what cannot be an order: {failure}")
            self.stream.lose_client()
            if not self._left and not self._released:
                threading.Thread(target=lost, name="meshlog-relay-end", daemon=True).start()
        finally:
            if self._left:
                self._link.forget()
            internal_threads.discard(threading.get_ident())
