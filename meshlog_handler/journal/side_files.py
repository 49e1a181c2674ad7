"""Side files: an entry too large for a segment stands beside the journal, in a file of its own.

::

    worker   writes <journal>.<number>, then a LARGE entry with that number
    client   reads the file and removes it, which tells the worker that there is room again
    log_dir  the client keeps the newest ones, as <journal>.<number>.kept, for ``meshlog tail``
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from typing import Final

from ..errors import ProtocolError
from ..system.waits import monotonic

MAX_SIZE: Final = 1 << 28
"""Bytes of the largest side file that is read."""

MAX_FILES: Final = 16
"""Side files of one journal that were not read yet, and that are kept after they were read."""

MAX_KEPT: Final = 4 << 20
"""Bytes of the side files of one journal that are kept after they were read."""

NO_SPACE_SEC: Final = 10.0
"""Seconds for which a full disk is taken for one that other processes make room on."""

_LOOK_SEC: Final = 0.005
_NO_SPACE_LOOK_SEC: Final = 0.05
_NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


def side_path(journal: str, number: int, *, kept: bool = False) -> str:
    """Return the path of a side file; with `kept`, its path after the client has read it."""
    return f"{journal}.{number}.kept" if kept else f"{journal}.{number}"


class SideFiles:
    """The side files of one journal, for their writer. Any thread, signal handler or finalizer may call `put`.

    Parameters
    ----------
    journal : str
        The journal's path.
    limit : int
        Bytes of all files that were not read yet. A larger entry is written when no other file is there.
    """

    def __init__(self, journal: str, limit: int) -> None:
        self._journal = journal
        self._limit = limit
        self._numbers = itertools.count(1)
        self._writing: dict[int, int] = {}  # sizes by number: a file that is not there yet
        self._unread: dict[int, int] = {}
        self._no_space_since: float | None = None

    def put(self, data: bytes, *, replace: bool, patient: bool) -> int:
        """Write a new file, and return its number.

        Parameters
        ----------
        replace : bool
            Nobody reads the files: the oldest ones make room for the new one.
        patient : bool
            The caller can wait: a disk that has just become full is no error yet.

        Raises
        ------
        BlockingIOError
            If there is no room until files are read (see `wait`).
        OSError
            If the file cannot be written.
        """
        number = next(self._numbers)
        self._writing[number] = len(data)
        try:
            if not self._fits(number, len(data)):
                self._forget_read()
            while not self._fits(number, len(data)):
                if not (replace and self._remove_oldest()):
                    raise BlockingIOError(errno.EAGAIN, "the client has not read the side files that are there")
            self._write(number, data, replace, patient)
            self._unread[number] = len(data)
        finally:
            del self._writing[number]
        return number

    def _fits(self, number: int, size: int) -> bool:
        # Of two threads that find no room for both, the one with the lower number goes on.
        others = [each for at, each in (*tuple(self._unread.items()), *tuple(self._writing.items())) if at < number]
        return not others or (len(others) < MAX_FILES and sum(others) + size <= self._limit)

    def _write(self, number: int, data: bytes, replace: bool, patient: bool) -> None:
        path = side_path(self._journal, number)
        while True:
            try:
                with open(path, "xb", buffering=0) as file:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
                self._no_space_since = None
                return
            except OSError as failure:
                _unlink(path)
                if failure.errno not in _NO_SPACE:
                    raise
                if replace and self._remove_oldest():
                    continue
                now = monotonic()
                if self._no_space_since is None:
                    self._no_space_since = now
                if replace or not patient or now - self._no_space_since >= NO_SPACE_SEC:
                    raise
                raise BlockingIOError(errno.EAGAIN, "no space left for a side file") from failure
            except BaseException:  # a signal handler raised
                _unlink(path)
                raise

    def take_back(self, number: int) -> None:
        """Remove a file that no entry refers to."""
        self._unread.pop(number, None)
        _unlink(side_path(self._journal, number))

    def wait(self, _: bool, seconds: float) -> bool:
        """Wait up to `seconds` until `put` is worth another try; tell whether it is."""
        deadline = monotonic() + seconds
        while not self._forget_read():
            if self._no_space_since is not None:
                time.sleep(min(seconds, _NO_SPACE_LOOK_SEC))
                return True
            if monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SEC)
        return True

    def _forget_read(self) -> bool:
        """Forget the files that the client has read; tell whether there were any."""
        read = [number for number in tuple(self._unread) if not os.path.exists(side_path(self._journal, number))]
        for number in read:
            self._unread.pop(number, None)
        return bool(read)

    def _remove_oldest(self) -> bool:
        oldest = min(tuple(self._unread), default=None)
        if oldest is None:
            return False
        self.take_back(oldest)
        return True


class ReadSideFiles:
    """The side files of one journal, for the client: each is removed when it was read. One owner.

    Attributes
    ----------
    keep : bool
        Keep the newest ones for ``meshlog tail``: up to `MAX_FILES`, of `MAX_KEPT` bytes together.
    """

    __slots__ = ("_journal", "_kept", "_last", "keep")

    def __init__(self, journal: str) -> None:
        self.keep = False
        self._journal = journal
        self._kept: list[tuple[str, int]] = []
        self._last = 0

    def read(self, number: int) -> bytes:
        """Return what a side file holds, once.

        Raises
        ------
        ProtocolError
            If it cannot be read.
        """
        self._last = max(self._last, number)
        path = side_path(self._journal, number)
        try:
            data = read_side_file(path)
        except ProtocolError:
            _unlink(path)
            raise
        if self.keep and len(data) <= MAX_KEPT:
            self._keep(number, len(data))
        else:
            _unlink(path)
        return data

    def _keep(self, number: int, size: int) -> None:
        kept = side_path(self._journal, number, kept=True)
        try:
            os.rename(side_path(self._journal, number), kept)
        except OSError:
            _unlink(side_path(self._journal, number))
            return
        self._kept.append((kept, size))
        while len(self._kept) > MAX_FILES or sum(each for _, each in self._kept) > MAX_KEPT:
            _unlink(self._kept.pop(0)[0])

    @property
    def kept(self) -> list[str]:
        """The paths of the files that are kept."""
        return [path for path, _ in self._kept]

    def remove_unreferenced(self) -> None:
        """Remove what a worker has left that was killed after it wrote a file, and before it wrote the entry."""
        for number in range(self._last + 1, self._last + 1 + MAX_FILES):
            _unlink(side_path(self._journal, number))


def read_side_file(path: str) -> bytes:
    """Return what a regular file of at most `MAX_SIZE` bytes holds.

    Raises
    ------
    ProtocolError
        If it is no such file, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ProtocolError("a side file of the journal is not a regular file")
            if status.st_size > MAX_SIZE:
                raise ProtocolError(f"a side file of the journal has {status.st_size:,} bytes")
            return file.read(status.st_size)
    except OSError as failure:
        raise ProtocolError(f"a side file of the journal cannot be read: {failure}") from failure


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):  # it was never made, or its directory is gone
        os.unlink(path)
