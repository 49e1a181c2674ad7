"""The entries of a proc's stream, as they stand in its journal and travel to the client.

::

    entry   kind:u8  0:u8  shape:u16  size:u32  body[size]        then a commit mark, one byte
    DEFINE  body = plain data: what all records of one shape have in common
    RECORD  body = created:f64 msecs:f64, then what differs from record to record (see `TIMED`)
    FLUSH   body = version:u64, the sentinel of a flush
    LARGE   body = number:u64 of the side file that holds entries too large for a segment

A byte of zero ends the stream, a mark between entries is skipped. An entry is complete if anything follows it: a
mark is written only after the entry's bytes, and so is the next entry. Only the very last entry of a stream needs
its own mark; without one, the process died inside the logging call, which never returned.
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
"""Bytes of what is appended to a segment at once, at most; more stands in a side file, however large the segment is."""

TIMED: Final = "r"
"""Before the codes of a shape's arguments: a record's ``relativeCreated:f64`` stands before them."""

HEADER: Final = Struct("<BxHI")
NUMBER: Final = Struct("<BxHIQ")
UINT64: Final = Struct("<Q")


def number_entry(kind: int, number: int) -> bytes:
    """Return a FLUSH or LARGE entry."""
    return NUMBER.pack(kind, 0, UINT64.size, number)


def walk(data: bytes, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(kind, shape, body start, body end)`` for each entry; end at zero, at the end, or where an entry is cut."""
    at, end = start, len(data)
    while at < end:
        kind = data[at]
        if kind == MARK:
            at += 1
            continue
        if kind == 0 or at + HEADER.size > end:
            return
        _, shape, size = HEADER.unpack_from(data, at)
        body = at + HEADER.size
        if kind > LARGE or body + size > end:
            return
        yield kind, shape, body, body + size
        at = body + size


def extent(data: bytes, start: int, *, newest: bool) -> int:
    """Return where the complete entries of `data` end, from `start`.

    With `newest`, nothing proves the last entry but its own mark: without one it is left out as torn. One that fills
    `data` to the very end counts as whole: there is no room for its mark.
    """
    at = before = start
    for _, _, _, end in walk(data, start):
        before, at = at, end
    if newest and start < at < len(data) and data[at] != MARK:
        return before
    return at
