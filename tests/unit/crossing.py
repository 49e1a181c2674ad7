"""Records on their way from a proc to the client, in one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable, encode_known, encode_record
from meshlog_handler.protocol.entries import MARK, number_entry, walk
from meshlog_handler.protocol.record import PLAIN_SIZE, MeshRecord
from meshlog_handler.protocol.shapes import message_key, schema_key

IDENTITY = {"rank": 3, "local_rank": 1, "hostname": "node", "coords": {"gpus": 3}}
FRAME_ATTRIBUTES = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName")
ATTRIBUTES = (*FRAME_ATTRIBUTES, "created", "msecs", "thread", "threadName", "process", "processName")


def make(msg: object = "hello", *args: object, **attributes: Any) -> logging.LogRecord:
    """Return a record as a logger makes it: one dict as the only argument is the arguments."""
    made = logging.LogRecord("app.part", logging.INFO, "/srv/app.py", 7, msg, args, None, "work")
    made.__dict__.update(attributes)
    return made


def encode(records: Iterable[logging.LogRecord], table: SchemaTable | None = None) -> bytes:
    """Return the entries of records as they stand in one segment. Takes the fast path where `MeshHandler` would."""
    table = SchemaTable() if table is None else table
    parts = []
    for record in records:
        frozen = None
        try:
            args: Any = record.args
            data = pack = None
            if len(record.__dict__) == PLAIN_SIZE and type(args) is tuple:
                pack = table.get((schema_key(record.__dict__), (record.__class__, *map(type, args)), None))
                if pack is None and not args:
                    args = (record.msg,)
                    pack = table.get((message_key(record.__dict__), record.__class__, type(record.msg), None))
                if pack is not None:
                    data = pack(record.created, record.msecs, record.relativeCreated, *args)
            if pack is None:
                data = encode_known(record, table, None)
            if data is None:
                raise LookupError
            parts.append(data)
        except Exception:
            frozen = encode_record
        if frozen is not None:  # not where an exception is handled: the record may ask for it
            known = frozen(record, table)
            known.commit_schema()
            parts.append(known.data)
        parts.append(bytes([MARK]))
    return b"".join(parts)


def no_side_file(number: int) -> bytes:
    raise ProtocolError(f"there is no side file {number}")


def decode(*pieces: bytes, limit: int = 1 << 30, read_large: Callable[[int], bytes] = no_side_file) -> list[Item]:
    """Return the items of pieces of one segment."""
    thawer = RecordDecoder(IDENTITY, read_large, "owner")
    items: list[Item] = []
    for piece in pieces:
        at = 0
        while at < len(piece):
            at = thawer.decode(piece, at, limit, items)
    return items


def cross(*records: logging.LogRecord) -> list[MeshRecord]:
    """Return what the client makes of records."""
    return [template.build(values) for _, template, values in decode(encode(records))]


def borders(data: bytes) -> list[int]:
    """Return where entries of `data` begin or end."""
    return sorted({0, len(data), *(end for _, _, _, end in walk(data))})


__all__ = ["ATTRIBUTES", "IDENTITY", "borders", "cross", "decode", "encode", "make", "no_side_file", "number_entry"]
