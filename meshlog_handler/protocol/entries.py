"""The entries of a worker's record stream, in its journal and on the connection to the client.

::

    entry   kind:u8  0:u8  schema:u16  size:u32  body[size]        then a commit byte
    DEFINE  body = plain data: a schema, that is what all of its records have in common
    RECORD  body = created:f64 msecs:f64, then the data of this one record (see `TIMED`)
    FLUSH   body = version:u64, the sentinel of a flush
    LARGE   body = number:u64 of the side file that holds entries too large for a segment

A zero byte ends the stream. A reader skips the commit bytes between entries. An entry is complete if anything follows it,
because its commit byte and the next entry are written after it. Only the last entry of a stream needs its commit byte: if it
is missing, the process died inside the logging call, which never returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

DEFINE: Final = 1
RECORD: Final = 2
FLUSH: Final = 3
LARGE: Final = 4
MARK: Final = 0xA5

MAX_ENTRY: Final = 1 << 20
"""The maximum number of bytes in one append to a segment; a larger record goes to a side file, whatever the segment's size."""

TIMED: Final = "r"
"""A prefix of a schema's codes: its records have ``relativeCreated:f64`` before their arguments."""

MESSAGE: Final = "m"
"""The codes of a schema whose records have no arguments, and each another message: an f-string, for example."""

SHAPED: Final = "="
"""A prefix of a schema's codes: its values are arguments, or the values of a mapping, and then attributes by name."""

HEADER: Final = Struct("<BxHI")
NUMBER: Final = Struct("<BxHIQ")
UINT64: Final = Struct("<Q")


def number_entry(kind: int, number: int) -> bytes:
    """Return a FLUSH or LARGE entry."""
    return NUMBER.pack(kind, 0, UINT64.size, number)


def walk(data: bytes, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(kind, schema, body start, body end)`` for each entry, up to a zero byte or an incomplete entry."""
    at, end = start, len(data)
    while at < end:
        kind = data[at]
        if kind == MARK:
            at += 1
            continue
        if kind == 0 or at + HEADER.size > end:
            return
        _, schema, size = HEADER.unpack_from(data, at)
        body = at + HEADER.size
        if kind > LARGE or body + size > end:
            return
        yield kind, schema, body, body + size
        at = body + size


def extent(data: bytes, start: int, *, newest: bool) -> int:
    """Return the end of the complete entries in ``data[start:]``.

    With `newest`, nothing follows the last entry, so it counts as torn if its commit byte is missing. An entry that fills
    `data` to the end counts as complete: there is no room for a commit byte.
    """
    at = before = start
    for _, _, _, end in walk(data, start):
        before, at = at, end
    if newest and start < at < len(data) and data[at] != MARK:
        return before
    return at
