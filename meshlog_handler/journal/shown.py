"""ShownMark: how far the records of one journal were shown. It outlives the client, whose successor continues there.

::

    client     begin(position), the handlers, done(position)
    worker     keeps the entries until they were shown (see `Journal.keep_until_shown`)
    successor  skips what was shown

A position is the generation of a segment and the number of its records, in one number of eight bytes. The file also has what
the client knows of the worker, because the successor may find only the journal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Mapping
from struct import Struct
from typing import Any, Final

from ..errors import ProtocolError
from ..protocol.codec import pack, unpack
from ..system.lasting_file import LastingFile

SUFFIX: Final = ".shown"
_SIZE: Final = 16384
_SHIFT: Final = 32
_POSITION: Final = Struct("Q")
_BEGUN: Final = Struct("QQ")  # a position, and the files
_POSITIONS: Final = Struct("QQQ")  # shown and begun
_ABOUT_AT: Final = 1024
MAX_STATES: Final = _ABOUT_AT - _POSITIONS.size
"""Bytes for the states of files."""

_TABLE_AT: Final = 12288
_LENGTH: Final = Struct("<I")


def shown_path(journal: str) -> str:
    """Return the path of the mark of a journal."""
    return journal + SUFFIX


def position(generation: int, records: int) -> int:
    """Return the position after a number of records of a generation."""
    return generation << _SHIFT | records


class ShownMark:
    """The mark of one journal. The client's thread writes it. Each method may raise `OSError`, except `close`."""

    __slots__ = ("_file",)

    def __init__(self, file: LastingFile) -> None:
        self._file = file

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
        except OSError:
            os.close(fd)
            raise
        return cls(LastingFile(path, fd))

    @classmethod
    def open(cls, journal: str) -> ShownMark:
        """Open the mark of a journal that another client has left. Raises `OSError`, and `ProtocolError` if it is no mark."""
        path = shown_path(journal)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != _SIZE:
            os.close(fd)
            raise ProtocolError(
                f"{path} does not say how far a journal was shown: it is no file, or another process truncated it"
            )
        return cls(LastingFile(path, fd))

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._file.path

    def _content(self) -> bytes:
        return self._file.read(_SIZE, 0).ljust(_SIZE, b"\0")  # what another process has truncated says nothing

    def _text(self, at: int) -> bytes:
        content = self._content()
        (size,) = _LENGTH.unpack_from(content, at)
        return content[at + _LENGTH.size : at + _LENGTH.size + size]

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
        self._file.write(_LENGTH.pack(len(encoded)) + encoded, _TABLE_AT)

    @property
    def shown(self) -> tuple[int, int]:
        """The generation of the last record that was shown, and how many records of this generation were."""
        (shown,) = _POSITION.unpack_from(self._content())
        return shown >> _SHIFT, shown & ((1 << _SHIFT) - 1)

    def begin(self, at: int, files: int, states: bytes = b"") -> None:
        """Note that the record before position `at` is given to the handlers.

        `files` are those that they write to, and `states` what these are now (see `client.jobs.shown_files`).
        """
        self._file.write(_BEGUN.pack(at, files) + states[:MAX_STATES], _POSITION.size)

    def done(self, at: int) -> None:
        """Note that the handlers have returned."""
        self._file.write(_POSITION.pack(at), 0)

    @property
    def in_doubt(self) -> tuple[int, bytes] | None:
        """The files and states of the record that the handlers had when the client was killed; None if they had returned."""
        content = self._content()
        shown, begun, files = _POSITIONS.unpack_from(content)
        return (files, content[_POSITIONS.size : _ABOUT_AT]) if begun > shown else None

    def settle(self, *, written: bool) -> None:
        """Decide whether the record in doubt was shown."""
        shown, begun, _ = _POSITIONS.unpack_from(self._content())
        if written:
            self.done(begun)
        else:
            self.begin(shown, 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
        with contextlib.suppress(OSError):  # the program has closed it already
            if os.path.samestat(os.fstat(self._fd), self._file):
                os.close(self._fd)
