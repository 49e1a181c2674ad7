"""Frames on a stream socket: a length, a kind, a payload.

::

    frame    size:u32 (of kind and payload)   kind:u8   payload
    DATA     generation:u64 start:u32, then bytes of the record stream      worker -> client
    DROPPED  plain data: ((reason, level, count), ...), totals so far       worker -> client
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
"""The size limit of a frame from the client to a worker: a configuration may be long."""


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame."""
    return HEAD.pack(1 + len(payload), kind) + payload


def data_head(generation: int, start: int, size: int) -> bytes:
    """Return the head of a DATA frame with `size` bytes of the stream."""
    return DATA_HEAD.pack(1 + POSITION.size + size, DATA, generation, start)


class FrameReader:
    """Splits a byte stream into frames. Holds at most one incomplete frame, whose size is limited."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the ``(kind, payload)`` pairs of the frames that `data` completes.

        Raise `ProtocolError` for a size of 0 or beyond the limit, before the payload is kept.
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
