"""ShownMark: how far the records of one journal were shown. It outlives the client, whose successor continues there.

::

    client     begin(position), the handlers, done(position)
    worker     keeps the entries until they were shown (see `Journal.shown`)
    successor  skips what was shown

A position is the generation of a segment and the number of its records, in one number: one store of eight bytes cannot be torn
by a signal. The file also has what the client knows of the worker, because the successor may find the journal only.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import sys
from collections.abc import Mapping
from struct import Struct
from typing import Any, Final

from ..errors import ProtocolError
from ..protocol.codec import pack, unpack

SUFFIX: Final = ".shown"
_SIZE: Final = 16384
_SHIFT: Final = 32
_SHOWN, _BEGUN, _FILES = range(3)
_ABOUT_AT: Final = 64
_TABLE_AT: Final = 12288
_LENGTH: Final = Struct("<I")


def shown_path(journal: str) -> str:
    """Return the path of the mark of a journal."""
    return journal + SUFFIX


def position(generation: int, records: int) -> int:
    """Return the position after a number of records of a generation."""
    return generation << _SHIFT | records


class ShownMark:
    """The mark of one journal, mapped. The client's thread writes it."""

    __slots__ = ("_map", "_words", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._map = mmap.mmap(fd, _SIZE)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, journal: str, about: Mapping[str, Any]) -> ShownMark:
        """Make the mark of a new journal. `about` is plain data on its worker. Raises `OSError`."""
        path = shown_path(journal)
        data = pack(dict(about))
        if len(data) > _TABLE_AT - _ABOUT_AT - _LENGTH.size:
            raise OSError(errno.EMSGSIZE, "what a worker says of itself is too long", path)
        making = f"{path}.new"  # renamed when it is complete: this process may be killed meanwhile
        fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            content = bytes(_ABOUT_AT) + _LENGTH.pack(len(data)) + data
            os.write(fd, content.ljust(_SIZE, b"\0"))
            os.rename(making, path)
            return cls(path, fd)
        finally:
            os.close(fd)

    @classmethod
    def open(cls, journal: str) -> ShownMark:
        """Open the mark of a journal that another client has left. Raises `OSError`, and `ProtocolError` if it is no mark."""
        path = shown_path(journal)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != _SIZE:
                raise ProtocolError(f"{path} does not say how far a journal was shown")
            return cls(path, fd)
        finally:
            os.close(fd)

    def _text(self, at: int) -> bytes:
        (size,) = _LENGTH.unpack_from(self._map, at)
        return self._map[at + _LENGTH.size : at + _LENGTH.size + min(size, _SIZE)]

    def about(self) -> dict[str, Any]:
        """Return the data on the worker; raise `ProtocolError` if it is malformed."""
        found = unpack(self._text(_ABOUT_AT))
        if not isinstance(found, dict):
            raise ProtocolError(f"{self.path} has no data on a worker")
        return found

    @property
    def table(self) -> str:
        """The path of the table of files of the client that writes this mark (see `client.jobs.shown_files`)."""
        return os.fsdecode(self._text(_TABLE_AT))

    @table.setter
    def table(self, path: str) -> None:
        encoded = os.fsencode(path)[: _SIZE - _TABLE_AT - _LENGTH.size]
        self._map[_TABLE_AT : _TABLE_AT + _LENGTH.size + len(encoded)] = _LENGTH.pack(len(encoded)) + encoded

    @property
    def shown(self) -> tuple[int, int]:
        """The generation of the last record that was shown, and how many records of this generation were."""
        return self._words[_SHOWN] >> _SHIFT, self._words[_SHOWN] & ((1 << _SHIFT) - 1)

    def begin(self, at: int, files: int) -> None:
        """Note that the record before position `at` is given to the handlers; `files` are those that they write to."""
        self._words[_FILES] = files
        self._words[_BEGUN] = at

    def done(self, at: int) -> None:
        """Note that the handlers have returned."""
        self._words[_SHOWN] = at

    @property
    def in_doubt(self) -> int | None:
        """The files of the record that the handlers had when the client was killed; None if they had returned."""
        return self._words[_FILES] if self._words[_BEGUN] > self._words[_SHOWN] else None

    def settle(self, *, written: bool) -> None:
        """Decide whether the record in doubt was shown."""
        self._words[_SHOWN if written else _BEGUN] = self._words[_BEGUN if written else _SHOWN]

    def close(self) -> None:
        """Release the map."""
        self._words.release()
        self._map.close()


class ShownReader:
    """Reads how far the records of this process's journal were shown. Any thread may call it."""

    def __init__(self, journal: str) -> None:
        self._fd = os.open(shown_path(journal), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._file = os.fstat(self._fd)

    def __call__(self) -> int:
        """Return the generation of the last record that was shown. It is read, not mapped: the file may be truncated."""
        data = b""
        with contextlib.suppress(OSError):  # the program has closed the descriptor
            if os.path.samestat(os.fstat(self._fd), self._file):
                data = os.pread(self._fd, 8, 0)
        return int.from_bytes(data, sys.byteorder) >> _SHIFT if len(data) == 8 else 0

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # as above
            if os.path.samestat(os.fstat(self._fd), self._file):
                os.close(self._fd)
