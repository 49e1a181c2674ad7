"""What ``meshlog on`` sends to ``meshlog relay`` on another host: what to start, bytes of the client, and signals.

::

    a byte for the kind, four for the size, the contents
"""

from __future__ import annotations

import os
import struct
from typing import Final

from ...errors import ProtocolError

START: Final = b"+"
"""The first frame: a JSON object."""

DATA: Final = b"d"
SIGNAL: Final = b"s"

_HEAD: Final = struct.Struct(">cI")
_LARGEST: Final = 1 << 24


def write_frame(fd: int, kind: bytes, contents: bytes) -> None:
    """Write a frame, and wait until it is written. Raises `OSError`."""
    left = memoryview(_HEAD.pack(kind, len(contents)) + contents)
    while left:
        left = left[os.write(fd, left) :]


def read_frame(fd: int) -> tuple[bytes, bytes]:
    """Return the kind and the contents of the next frame. Raises `EOFError` if the other end is gone, and `ProtocolError`."""
    kind, size = _HEAD.unpack(_read(fd, _HEAD.size))
    if size > _LARGEST:
        raise ProtocolError(f"a frame of {size:,} bytes. Expected at most {_LARGEST:,}")
    return kind, _read(fd, size)


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            raise EOFError("the other end is gone")
        data += more
    return data
