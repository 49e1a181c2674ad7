"""Frames on a stream socket: a length, a kind, a payload.

::

    frame    size:u32 of what follows   kind:u8   payload
    DATA     generation:u64 start:u32, then bytes of the proc's stream      proc -> client
    DROPPED  plain data: ((reason, level, count), ...), totals so far       proc -> client
    CONTROL  plain data: a message (see `messages`)                         both ways
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ..errors import ProtocolError

DATA: Final = 1
DROPPED: Final = 2
CONTROL: Final = 3

HEAD: Final = Struct("<IB")
DATA_HEAD: Final = Struct("<IBQI")
POSITION: Final = Struct("<QI")
MAX_FRAME: Final = 4 << 20
MAX_CONTROL: Final = 64 << 20
"""What a proc accepts from its client: a configuration may be long."""


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame."""
    return HEAD.pack(1 + len(payload), kind) + payload


def data_head(generation: int, start: int, size: int) -> bytes:
    """Return what precedes the `size` bytes of a DATA frame."""
    return DATA_HEAD.pack(1 + POSITION.size + size, DATA, generation, start)


class FrameReader:
    """Cuts a byte stream into frames. Holds one unfinished frame at most, never more than a frame may have."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the ``(kind, payload)`` pairs that `data` completes.

        Raises
        ------
        ProtocolError
            At a length of 0 or beyond the limit, before anything is kept for it.
        """
        rest = self._rest
        rest += data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(rest)
        while end - at >= HEAD.size:
            size, kind = HEAD.unpack_from(rest, at)
            if not 1 <= size <= self._limit:
                raise ProtocolError(f"a frame of {size} bytes; 1 to {self._limit} are allowed")
            stop = at + 4 + size
            if stop > end:
                break
            frames.append((kind, bytes(rest[at + HEAD.size : stop])))
            at = stop
        del rest[:at]
        return frames
