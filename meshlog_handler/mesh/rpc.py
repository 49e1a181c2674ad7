"""Frames that carry calls and results between the client and its procs.

::

    client -- CALL number, pickled (function, args, kwargs) --> proc
    client <-- DONE number, pickled value; or FAILED number, a `CallFailure` -- proc

A process exchanges these pickles only with its own children, over a private socket. Log messages contain no pickles.
"""

from __future__ import annotations

import traceback
from struct import Struct
from types import TracebackType
from typing import Final

from ..errors import ProtocolError
from ..protocol.messages import Message

HEAD: Final = Struct("<BQQ")  # kind, call number, payload size

CALL, DONE, FAILED, STOP = range(1, 5)
START: Final = 0  # the call number with which a proc reports that it has started


class CallFailure(Message):
    """Why a call failed in a proc: exception type, message, formatted traceback, and the pickled exception if possible."""

    kind: str
    message: str
    trace: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: BaseException, skip: str, pickled: bytes | None, note: str = "") -> CallFailure:
        """Describe `error`. `note` precedes its message; leading frames of the traceback whose file is `skip` are omitted."""
        trace = _without_first_frames(error.__traceback__, skip)
        try:
            text = "".join(traceback.format_exception(type(error), error, trace))
        except Exception as second:  # __str__ or __repr__ raised
            text = f"{type(error).__qualname__}; its traceback cannot be formatted ({type(second).__name__})\n"
        try:
            message = str(error)
        except Exception as second:
            message = f"its text is not available ({type(second).__name__})"
        plain = [part.encode("utf-8", "replace").decode() for part in (type(error).__name__, f"{note}{message}", text)]
        return cls(plain[0], plain[1], plain[2], pickled)

    @property
    def reason(self) -> str:
        """The exception type and the first line of its message."""
        line = self.message.strip().partition("\n")[0]
        return f"{self.kind}: {line}" if line else self.kind


def _without_first_frames(trace: TracebackType | None, path: str) -> TracebackType | None:
    kept = trace
    while kept is not None and kept.tb_frame.f_code.co_filename == path:
        kept = kept.tb_next
    return kept if kept is not None else trace


def head(kind: int, number: int, size: int) -> bytes:
    """Return the header that precedes a frame's payload."""
    return HEAD.pack(kind, number, size)


def name_of(fn: object) -> str:
    """Return the name of a function for messages."""
    fn = getattr(fn, "func", fn)  # functools.partial has no __name__
    return getattr(fn, "__name__", None) or type(fn).__name__


class CallFrameReader:
    """Splits received bytes into frames. Not thread-safe. Frame size is unlimited, because the sender is trusted."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._missing = HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Add received bytes; return the completed frames as kind, number and payload.

        Raises `ProtocolError` if the bytes are not a frame: other code wrote to the socket.
        """
        self._data += data
        frames = []
        while len(self._data) >= self._missing:
            kind, number, size = HEAD.unpack_from(self._data)
            if not CALL <= kind <= STOP:
                raise ProtocolError(f"unexpected frame of kind {kind}")
            end = HEAD.size + size
            if len(self._data) < end:
                self._missing = end  # do not parse the header again for each piece of a large frame
                break
            frames.append((kind, number, bytes(memoryview(self._data)[HEAD.size : end])))
            del self._data[:end]
            self._missing = HEAD.size
        return frames
