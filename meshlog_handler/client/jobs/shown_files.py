"""The files to which the handlers of a job's client write: their sizes tell whether the last record was written.

If a client is killed while a handler shows a record, its successor compares the size of the file before the record with the
size now. The table is in a mapped file, which outlives the client. Client thread only.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterable
from typing import Final

from ...errors import ProtocolError
from ...protocol.codec import pack, unpack
from ...system.regular_files import read_regular

_SIZE: Final = 16384
_PATHS_AT: Final = 1024
_MAX_FILES: Final = 60


class ShownFiles:
    """The table of one client. A set of files is a number with a bit for each."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._paths: dict[str, int] = {}
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(_SIZE))
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")

    def of(self, handlers: Iterable[object]) -> int:
        """Return the files of those handlers that write to files."""
        return sum({1 << self._number(each.baseFilename) for each in handlers if isinstance(each, logging.FileHandler)})

    def _number(self, path: str) -> int:
        number = self._paths.get(path)
        if number is None:
            number = len(self._paths)
            paths = pack((*self._paths, path))
            if number >= _MAX_FILES or len(paths) > _SIZE - _PATHS_AT:
                return _MAX_FILES  # of no file: the record is shown again
            self._paths[path] = number
            self._map[_PATHS_AT : _PATHS_AT + len(paths)] = paths
        return number

    def note(self, files: int) -> None:
        """Note the sizes of the files, before a record is written."""
        for number, path in enumerate(self._paths):
            if files >> number & 1:
                self._words[2 * number], self._words[2 * number + 1] = _state(path)

    def close(self) -> None:
        """Release the map."""
        self._words.release()
        self._map.close()


def were_written(table: str, files: int) -> bool:
    """Return whether each of these files of a killed client has grown since it noted their sizes, or was replaced."""
    try:
        data = read_regular(table, _SIZE)
        numbers = memoryview(data)[:_PATHS_AT].cast("Q")
        paths = unpack(data[_PATHS_AT:].rstrip(b"\0"))
    except (OSError, ValueError, TypeError, ProtocolError):
        return False
    if not files or not isinstance(paths, tuple) or files >> len(paths):
        return False
    for number, path in enumerate(paths):
        before = numbers[2 * number], numbers[2 * number + 1]
        now = _state(path)
        if files >> number & 1 and not (now[1] > (before[1] if now[0] == before[0] else 0)):
            return False
    return True


def _state(path: str) -> tuple[int, int]:
    """Return the inode and the size of a file; zeros if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
