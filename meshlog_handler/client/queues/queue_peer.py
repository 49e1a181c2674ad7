"""QueuePeer: the client's view of an ordinary queue (see `QueueReader`), and its records as items. Client thread only."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Hashable, Sequence
from logging import LogRecord
from typing import Any, Final

from ...protocol.decode import Item
from ...protocol.messages import Hello
from ...protocol.record import MeshInfo, info_of, message_of, shown_kind
from ...system.diagnostics import diagnose
from ..peers.peer import Chosen, Peer, Target
from .queue_reader import END, PUTTER_NAME, READER_NAME, QueueReader, is_mark

CLIENT_NAME: Final = "meshlog-client"
"""The name of the client's thread."""

ENDED: Final = 0
"""In place of the version of a flush, in the sentinel behind the last record of a queue. A negative number counts items."""

_MAX_TEMPLATES: Final = 4096


class QueuedTemplate:
    """What records of one call site have in common. The values are the `LogRecord` that came out of the queue."""

    __slots__ = ("_attributes", "_kind", "info", "levelno", "rank", "route", "scope")
    captured = False
    ordinary = True
    source = None
    group = None  # `QueueHandler` sends the text, without the arguments

    def line_of(self, values: object) -> None:
        """Return None: the record is there."""
        return

    def __init__(self, record: LogRecord, info: MeshInfo) -> None:
        self.info = info
        self.rank = info.rank
        self.levelno = record.levelno
        self.route: tuple[Any, str] = (None, record.name)
        self.scope: Hashable = (record.name, record.pathname, record.lineno)
        self._attributes = info.attributes()
        kind = type(record)
        self._kind: Any = kind if hasattr(kind, "meshlog") else shown_kind(kind)

    def args(self, record: LogRecord) -> tuple[object, ...]:
        """Return no arguments, because the text decides which records are similar."""
        return ()

    def text(self, record: LogRecord) -> str:
        """Return the message."""
        try:
            return record.getMessage()
        except Exception:
            return message_of(record)

    def when(self, record: LogRecord) -> float:
        """Return the time at which the record was logged."""
        return float(record.created)

    def signature(self, record: LogRecord) -> Hashable | None:
        """Return the exception's type, or the last line of its text, or None."""
        if record.exc_info:
            return str(record.exc_info[0])
        return str(record.exc_text).rpartition("\n")[2] if record.exc_text else None

    def build(self, record: LogRecord) -> LogRecord:
        """Return a copy with what a client adds. The program's extras take precedence."""
        kind = self._kind
        shown: LogRecord = kind.__new__(kind)
        fields = record.__dict__
        more = fields.copy()
        more.update(self._attributes)
        if len(more) != len(fields) + len(self._attributes):
            more.update(fields)
        shown.__dict__ = more
        shown.meshlog = self.info
        return shown


class QueuePeer(Peer):
    """A queue as a peer: it has no rank, no pipes and no connection.

    `token` identifies the client, so that a record that it has shown, and that comes back by the queue, is recognized.
    """

    def __init__(self, reader: QueueReader, token: str) -> None:
        hello = Hello(os.getpid(), socket.gethostname(), None, None, "", (), True, time.time())
        super().__init__(None, hello, rank=None, journal="", pipes={}, coords={}, max_line=0, process=hello.pid, client=token)
        self.name = f"the queue {reader.name}"
        self.reader = reader
        self._token = token
        self._info = MeshInfo(hostname=hello.hostname, client=token)
        self._templates: dict[Hashable, QueuedTemplate] = {}
        self._last = 0.0
        self._unshown = 0
        self._reported = False
        # A `dequeue` of the program may make records on the reader's thread.
        self._own_threads = {CLIENT_NAME, PUTTER_NAME, *(() if reader.overridden else (READER_NAME,))}
        reader.behind = lambda: self._unshown > 0

    def chosen(self, chosen: Chosen | None) -> Sequence[Target]:
        """Return nothing unless all peers are chosen: a queue gets no commands."""
        return [self] if chosen is None else []

    def waiting(self) -> int:
        """Return the number of records that were read and not taken. Any thread."""
        return len(self.reader.arrived)

    @property
    def unanswered(self) -> str:
        """Why a flush may get no answer."""
        return (
            f"{self.name} has not returned the mark of the flush, so records may still be in it (a process that was killed "
            f"while it used the queue may hold its lock)"
        )

    def ask_flush(self, version: int) -> None:
        """Put the mark of a flush into the queue."""
        self.reader.put_mark(self._token, version)

    def shown(self, count: int) -> None:
        """Note that items are shown."""
        self._unshown -= count
        self.reader.mark_done(count)

    def take_read(self) -> list[Item]:
        """Return what was read from the queue, in its order, and a sentinel that counts it."""
        items: list[Item] = []
        append = items.append
        templates, pid, own_threads = self._templates, self.pid, self._own_threads
        count = 0
        for record in self.reader.take():
            count += 1
            if not isinstance(record, LogRecord):
                if record is END:
                    count -= 1
                    append((self._last, None, (self, -count)))
                    append((self._last, None, (self, ENDED)))
                    self._unshown += count
                    count = 0
                elif record is not None:
                    self._take_other(record, items)
                continue
            try:
                template = templates.get((record.name, record.levelno, record.lineno, record.pathname))
                if template is None or type(record) is not LogRecord or "rank" in record.__dict__:
                    template = self._template_of(record)
                if record.created > self._last:  # false for nan
                    self._last = float(record.created)
            except Exception:  # attributes that no logger sets
                record = _repaired(record)
                template = self._template_of(record)
            # A handler of the client has logged it, or has passed it on: it would trigger that handler again.
            if template.info.client == self._token and template.info is not self._info:
                continue
            if record.threadName in own_threads and record.process == pid:
                continue
            append((self._last, template, record))
        if count:
            self.stats.last_seen = time.time()
            self._unshown += count
            append((self._last, None, (self, -count)))
        self.stats.received += sum(template is not None for _, template, _ in items)
        return items

    def _template_of(self, record: LogRecord) -> QueuedTemplate:
        if not isinstance(record.levelno, int) or not isinstance(record.name, str):
            raise TypeError("it has no level, or no name")
        if hasattr(record, "meshlog"):  # another client, or this one, has shown it
            return QueuedTemplate(record, info_of(record))
        if isinstance(vars(record).get("rank"), int):
            return QueuedTemplate(record, info_of(record).but(hostname=self._info.hostname))
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        place = (record.name, record.levelno, record.lineno, record.pathname)
        template = self._templates[place] = QueuedTemplate(record, self._info)
        return template

    def _take_other(self, item: Any, items: list[Item]) -> None:
        """Take the mark of a flush; report another item, once."""
        if is_mark(item):
            if item[1] == self._token:  # else it is the last mark, or an earlier client has left it there
                items.append((self._last, None, (self, item[2])))
        elif not self._reported:
            self._reported = True
            diagnose(
                f"{self.name} has an item of type {type(item).__name__}, which is left out: expected a logging.LogRecord, as "
                f"`logging.handlers.QueueHandler` puts it. Further items of other types are not reported."
            )


def _repaired(record: LogRecord) -> LogRecord:
    """Return a copy of a record in which the attributes that the client reads have their usual types."""
    repaired = LogRecord("", 0, "", 0, "", (), None)
    usual = {name: _KINDS.get(type(value), object) for name, value in vars(repaired).items() if name != "msg"}
    fields = vars(record).items()
    vars(repaired).update({name: value for name, value in fields if isinstance(value, usual.get(name, object))})
    return repaired


_KINDS: Final[dict[type, type | tuple[type, ...]]] = {str: str, int: int, float: (int, float)}
