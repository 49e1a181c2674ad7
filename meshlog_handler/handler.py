"""MeshHandler: the `logging.Handler` that hands a record to the mesh. The hot path of every logging call.

::

    logger.info(...) -> MeshHandler.handle -> journal    (LogForwarder ships it)
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import membership, settings
from .capture import diagnose
from .entries import MARK
from .errors import ConnectError
from .freeze import PLAIN_SIZE, shape_key
from .mesh_record import MeshRecord
from .named_handlers import ShownBy, ShownHere, resolve
from .stream import Stream, check_on_full, is_own

if TYPE_CHECKING:
    from .client import LogClient


class MeshHandler(logging.Handler):
    """Forwards records to the client that shows them, which this process may be itself.

    In ``logging.config``: the first process that applies the configuration becomes the client, and `handlers` show
    the records of all; processes it starts, however they start, find it and forward to it.

    Parameters
    ----------
    level : int or str
        As for every handler.
    handlers : sequence of str or logging.Handler
        What shows the records in the client: names of handlers of the same configuration, in any order, or handlers.
        Empty: the console.
    aggregate_window_sec : float or None
        Seconds in which similar lines become one. None shows each at once.
    respect_handler_level : bool
        Whether the client's handlers see only records of their own level and above.
    address : str or None
        Of a running client; None reads ``MESHLOG_ADDRESS``, and where that is not set, makes this process the client.
    on_full : {"block", "drop"}
        What a logging call does when the journal is full: wait for as long as the client gets on (10 seconds without a
        sign of that, and the record is counted as dropped), or drop at once.
    log_dir : str or None
        Where the client keeps a complete file per rank.

    Notes
    -----
    Any thread may log. `flush` and `close` never wait: `logging.config` calls them with logging's lock held.
    After a fork the child joins as itself with its first record.
    """

    forwards = True
    """Where a configuration sent by the client would take this handler off the root logger, it stays."""

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        handlers: Sequence[str | logging.Handler] | str = (),
        aggregate_window_sec: float | None = None,
        respect_handler_level: bool = True,
        address: str | None = None,
        on_full: str = "block",
        log_dir: str | None = None,
    ) -> None:
        super().__init__(level)
        self._on_full = check_on_full(on_full)
        self._stream: Stream | None = None
        self._shown_here: ShownHere | None = None
        member = membership.current()
        address = address or os.environ.get(settings.ADDRESS) or None
        if _own_client is None or not _own_client.running or address not in (None, _own_client.address):
            if member is not None and address in (None, member.terms.address):
                self._stream = member.stream
                return
            if address is not None:
                try:
                    self._join(address)
                    return
                except ConnectError as failure:
                    diagnose(f"{settings.ADDRESS} names a client that is gone; this process shows its logs itself. {failure}")
        shown_by = resolve([handlers] if isinstance(handlers, str) else handlers)
        window = settings.check_window(aggregate_window_sec)
        try:
            client = _become_client(shown_by, window, respect_handler_level, log_dir)
        except OSError as failure:
            diagnose(f"no other process can join this one, which shows its own logs, each at once: {failure}")
            self._shown_here = ShownHere(shown_by, respect_handler_level)
            return
        own = membership.Terms(client.address, on_full=self._on_full, mesh=client.own_token)
        self._stream = membership.join(own).stream

    def _join(self, address: str) -> None:
        terms = membership.Terms(address, settings.rank(), settings.local_rank(), on_full=self._on_full)
        self._stream = membership.join(terms).stream

    def handle(self, record: logging.LogRecord) -> Any:
        """Forward the record if the filters let it pass. Never raises what is an `Exception`, never waits for the client
        but for room in the journal (see `on_full`). Takes no lock.
        """
        if self.filters:
            passed = self.filter(record)
            if not passed:
                return passed
            if isinstance(passed, logging.LogRecord):
                record = passed
        written = False
        try:
            stream = self._stream
            fields = record.__dict__
            args = record.args
            if len(fields) == PLAIN_SIZE and args.__class__ is tuple:
                shapes, write, mark = stream.appender  # type: ignore[union-attr]  # without a stream: the slow path
                pack = shapes[(shape_key(fields), tuple(map(type, args)))]
                write(pack(record.created, record.msecs, *args))
                written = True
                mark(MARK)
                if stream.idle:  # type: ignore[union-attr]  # as above
                    stream.wake()  # type: ignore[union-attr]  # as above
                return True
        except Exception:
            # A new shape, a segment that is full, an odd value: the slow path takes any record. Once it is written,
            # all that can be wrong is the mark, for which the very end of a segment has no room, and needs none.
            if written:
                return True
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Forward any record, however odd: the slow path of `handle`."""
        try:
            if is_own(record):
                return  # also once there is no stream any more: what a handler of the client logs stays its own
            if isinstance(record, MeshRecord):
                return  # forwarded once: a handler of the client has handed it to the loggers here
            stream = self._stream
            if stream is None or stream.client_gone or stream.pid != os.getpid():
                member = membership.current() or membership.rejoin()
                stream = self._stream = member.stream if member is not None else None
            if stream is not None:
                stream.append(record)
            elif self._shown_here is not None:
                self._shown_here.show(record)
            elif record.levelno >= logging.WARNING and settings.forwarding_enabled():
                diagnose(f"{record.levelname} {record.name}: {record.getMessage()}")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Return at once: what a call has logged is in the journal already."""

    def close(self) -> None:
        """Take the handler out of logging's registry. The process stays a member of the mesh: other loggers may use it."""
        super().close()


def _leave_and_stop(client: LogClient) -> None:
    member = membership.current()
    if client.running and member is not None and member.terms.address == client.address:
        membership.leave()
    client.stop()


_own_client: LogClient | None = None


def _become_client(
    handlers: Sequence[ShownBy], window: float | None, respect_handler_level: bool, log_dir: str | None
) -> LogClient:
    """Make this process the client; where it is one already (configured twice), give that one the new handlers."""
    global _own_client
    from .client import LogClient

    client = _own_client
    if client is not None and client.running:
        client.reconfigure(handlers, respect_handler_level, window)
        return client
    client = LogClient(*handlers, aggregate_window_sec=window, respect_handler_level=respect_handler_level, log_dir=log_dir)
    client.start()
    os.environ[settings.ADDRESS] = client.address
    atexit.register(_leave_and_stop, client)
    _own_client = client
    return client
