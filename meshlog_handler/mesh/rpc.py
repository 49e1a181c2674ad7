"""What client and procs say to each other about calls: frames with a number, and what a failure carries.

::

    client -- CALL number, pickled (function, args, kwargs) --> proc
    client <-- DONE number, pickled value; or FAILED number, a `CallFailure` -- proc

The pickles are those of a process and its own children, over a private socket. What logs travel in holds none.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from struct import Struct
from types import TracebackType
from typing import ClassVar, Final

from ..errors import ProtocolError
from ..protocol.messages import Message

HEAD: Final = Struct("<BQQ")  # kind, number of the call, size of what follows

CALL, DONE, FAILED, STOP = range(1, 5)
START: Final = 0  # the number under which a proc says that it is up


@dataclass(frozen=True)
class CallFailure(Message):
    """Why a call failed in a proc.

    Attributes
    ----------
    kind, message : str
        The exception's type and text.
    trace : str
        Its traceback, formatted in the proc.
    pickled : bytes or None
        The exception, if it can travel.
    """

    kind: str
    message: str
    trace: str
    pickled: bytes | None
    types: ClassVar = {"kind": (str,), "message": (str,), "trace": (str,), "pickled": (bytes, type(None))}

    @classmethod
    def of(cls, error: BaseException, skip: str, pickled: bytes | None, note: str = "") -> CallFailure:
        """Describe an exception.

        Parameters
        ----------
        error : BaseException
            What was raised.
        skip : str
            Path of a file whose frames, where the traceback begins in them, are left out.
        pickled : bytes or None
            The exception, if it can travel.
        note : str
            Words to put before the message.
        """
        trace = _without_first_frames(error.__traceback__, skip)
        try:
            text = "".join(traceback.format_exception(type(error), error, trace))
        except Exception as second:  # a __str__ or __repr__ that fails
            text = f"{type(error).__qualname__}; its traceback cannot be formatted ({type(second).__name__})\n"
        try:
            message = str(error)
        except Exception as second:
            message = f"its text cannot be had ({type(second).__name__})"
        plain = [part.encode("utf-8", "replace").decode() for part in (type(error).__name__, f"{note}{message}", text)]
        return cls(plain[0], plain[1], plain[2], pickled)

    @property
    def reason(self) -> str:
        """One line that says why."""
        line = self.message.strip().partition("\n")[0]
        return f"{self.kind}: {line}" if line else self.kind


def _without_first_frames(trace: TracebackType | None, path: str) -> TracebackType | None:
    kept = trace
    while kept is not None and kept.tb_frame.f_code.co_filename == path:
        kept = kept.tb_next
    return kept if kept is not None else trace


def head(kind: int, number: int, size: int) -> bytes:
    """Return what goes before a frame's payload."""
    return HEAD.pack(kind, number, size)


def name_of(fn: object) -> str:
    """Return what a function is called in messages."""
    fn = getattr(fn, "func", fn)  # of a functools.partial
    return getattr(fn, "__name__", None) or type(fn).__name__


class CallFrameReader:
    """Cuts received bytes into frames. One owner; no limit on their size, for the peer is trusted."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._missing = HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Take what was received; return the frames it completes, as kind, number and payload.

        Raises
        ------
        ProtocolError
            If no frame begins like that: somebody else wrote into the socket.
        """
        self._data += data
        frames = []
        while len(self._data) >= self._missing:
            kind, number, size = HEAD.unpack_from(self._data)
            if not CALL <= kind <= STOP:
                raise ProtocolError(f"a frame of kind {kind}")
            end = HEAD.size + size
            if len(self._data) < end:
                self._missing = end  # the head is not read again for each piece of a large frame
                break
            frames.append((kind, number, bytes(memoryview(self._data)[HEAD.size : end])))
            del self._data[:end]
            self._missing = HEAD.size
        return frames
