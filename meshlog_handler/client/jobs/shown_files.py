"""The files to which the handlers of a job's client write: their sizes tell whether the last record was written.

If a client is killed while a handler shows a record, its successor compares the sizes of the files before the record, which are
in the mark, with those now. The table of their paths outlives the client, too. Client thread only.
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import Final

from ...errors import ProtocolError
from ...journal.shown import MAX_STATES
from ...protocol.codec import pack, unpack
from ...system.lasting_file import LastingFile
from ...system.regular_files import read_regular

_SIZE: Final = 16384
_STATE: Final = Struct("QQ")
_MAX_FILES: Final = MAX_STATES // _STATE.size
_NO_FILE: Final = 1 << _MAX_FILES


class ShownFiles:
    """The table of one client. A set of files is a number with a bit for each."""

    def __init__(self, path: str) -> None:
        self._paths: dict[str, int] = {}
        self._file = LastingFile(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._file.write(bytes(_SIZE), 0)  # so that the disk has room

    @property
    def path(self) -> str:
        """The path of the table."""
        return self._file.path

    def bit(self, path: str) -> int:
        """Return the bit of a file."""
        number = self._paths.get(path)
        if number is None:
            number = len(self._paths)
            paths = pack((*self._paths, path))
            try:
                if number >= _MAX_FILES or len(paths) > _SIZE:
                    raise OSError(errno.EFBIG, "too many files", self.path)
                self._file.write(paths, 0)
            except OSError:
                return _NO_FILE  # the record is shown again
            self._paths[path] = number
        return 1 << number

    def states(self, files: int) -> bytes:
        """Return what the files are now: pass it to the successor, before a record is written."""
        return b"".join(_STATE.pack(*_state(path)) for path, number in self._paths.items() if files >> number & 1)

    def close(self) -> None:
        """Close the table."""
        self._file.close()


def were_written(table: str, files: int, states: bytes) -> bool:
    """Return whether each of these files of a killed client has grown since it noted their states, or was replaced."""
    try:
        paths = unpack(read_regular(table, _SIZE).rstrip(b"\0"))
    except (OSError, ValueError, TypeError, ProtocolError):
        return False
    if not files or not isinstance(paths, tuple) or files >> min(len(paths), _MAX_FILES):
        return False
    noted = [path for number, path in enumerate(paths) if files >> number & 1]
    for path, (inode, size) in zip(noted, _STATE.iter_unpack(states[: len(noted) * _STATE.size]), strict=True):
        now = _state(path)
        if now[1] <= (size if now[0] == inode else 0):
            return False
    return True


def _state(path: str) -> tuple[int, int]:
    """Return the inode and the size of a file; zeros if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
