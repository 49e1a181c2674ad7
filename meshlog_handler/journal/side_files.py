"""Side files: an entry that is too large for a segment is in a separate file beside the journal.

::

    worker   writes <journal>.<number>, then a LARGE entry with that number
    client   reads the file and removes it, which shows the worker that there is room again
    log_dir  the client keeps the newest ones, as <journal>.<number>.kept, for ``meshlog tail``
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from typing import Final

from ..errors import ProtocolError
from ..system.regular_files import make_private, open_regular
from ..system.waits import monotonic

MAX_SIZE: Final = 1 << 28
"""Largest side file that is read, in bytes."""

MAX_FILES: Final = 16
"""Maximum number of unread side files of one journal, and of those kept after reading."""

MAX_KEPT: Final = 4 << 20
"""Maximum size of the side files of one journal that are kept after reading, in bytes together."""

NO_SPACE_SEC: Final = 10.0
"""Seconds that a full disk is expected to get free space from other processes."""

_LOOK_SEC: Final = 0.005
_NO_SPACE_LOOK_SEC: Final = 0.05
_NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


def side_path(journal: str, number: int, *, kept: bool = False) -> str:
    """Return the path of a side file; with `kept`, its path after the client has read and kept it."""
    return f"{journal}.{number}.kept" if kept else f"{journal}.{number}"


class SideFiles:
    """The side files of one journal, for the worker. Any thread, signal handler or finalizer may call `put`.

    `limit` is the maximum size of all unread files, in bytes. A larger entry is written when there is no other file.
    """

    def __init__(self, journal: str, limit: int) -> None:
        self._journal = journal
        self._limit = limit
        self._numbers = itertools.count(1)
        self._writing: dict[int, int] = {}  # number: size; files that are not complete yet
        self._unread: dict[int, int] = {}
        self._no_space_since: float | None = None

    def put(self, data: bytes, *, replace: bool, patient: bool) -> int:
        """Write a new file, and return its number.

        With `replace` (no client reads the files), the oldest files are removed to make room. With `patient`, the caller can
        wait, and a disk that became full recently raises `BlockingIOError` too.

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
                    raise BlockingIOError(errno.EAGAIN, "the client has not read the existing side files")
            self._write(number, data, replace, patient)
            self._unread[number] = len(data)
        finally:
            del self._writing[number]
        return number

    def _fits(self, number: int, size: int) -> bool:
        # If there is no room for the files of two threads, the lower number has precedence.
        others = [each for at, each in (*tuple(self._unread.items()), *tuple(self._writing.items())) if at < number]
        return not others or (len(others) < MAX_FILES and sum(others) + size <= self._limit)

    def _write(self, number: int, data: bytes, replace: bool, patient: bool) -> None:
        path, remade = side_path(self._journal, number), False
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
                if failure.errno == errno.ENOENT and not remade and _make_again(os.path.dirname(path)):
                    remade = True
                    continue
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
        """Remove a file that no entry references."""
        self._unread.pop(number, None)
        _unlink(side_path(self._journal, number))

    def wait(self, _: bool, seconds: float) -> bool:
        """Wait up to `seconds` until it is useful to call `put` again; return whether it is."""
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
        """Forget the files that the client has read; return whether there were any."""
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
    """The side files of one journal, for the client. Each file is removed after it is read. One owner.

    With `keep`, the newest files stay for ``meshlog tail``: up to `MAX_FILES`, with up to `MAX_KEPT` bytes together.
    """

    __slots__ = ("_journal", "_kept", "_last", "_read", "defer", "keep")

    def __init__(self, journal: str) -> None:
        self.keep = False
        self.defer = False  # whether a file stays until `acknowledge`
        self._read: list[int] = []
        self._journal = journal
        self._kept: list[tuple[str, int]] = []
        self._last = 0

    def read(self, number: int) -> bytes:
        """Return the content of a side file, once; raise `ProtocolError` if it cannot be read."""
        self._last = max(self._last, number)
        path = side_path(self._journal, number)
        try:
            data = read_side_file(path)
        except ProtocolError:
            _unlink(path)
            raise
        if self.defer:
            self._read.append(number)
        else:
            self._end(number, len(data))
        return data

    def peek(self, number: int) -> bytes:
        """Return the content of a side file, which stays until `remove`; raise `ProtocolError` if it cannot be read."""
        self._last = max(self._last, number)
        return read_side_file(side_path(self._journal, number))

    def remove(self, number: int) -> None:
        """Remove a side file."""
        _unlink(side_path(self._journal, number))

    def _end(self, number: int, size: int) -> None:
        if self.keep and size <= MAX_KEPT:
            self._keep(number, size)
        else:
            _unlink(side_path(self._journal, number))

    def begin_after(self, last: int) -> None:
        """Remove the files up to number `last`, which another reader has read and not removed."""
        self._last = last
        directory, name = os.path.split(self._journal)
        with contextlib.suppress(OSError):  # the directory was removed
            for each in os.listdir(directory):
                number = each.removeprefix(f"{name}.")
                if number != each and number.isdecimal() and int(number) <= last:
                    _unlink(os.path.join(directory, each))

    @property
    def last(self) -> int:
        """The highest number of a file that was read."""
        return self._last

    def acknowledge(self, last: int) -> None:
        """Remove or keep the files that were read, up to number `last`: the upstream client has their records."""
        while self._read and self._read[0] <= last:
            number = self._read.pop(0)
            with contextlib.suppress(OSError):  # it was removed
                self._end(number, os.stat(side_path(self._journal, number)).st_size)

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
    def left(self) -> list[str]:
        """Paths of the files that were read and are not removed yet."""
        return [*(path for path, _ in self._kept), *(side_path(self._journal, number) for number in self._read)]

    def remove_unreferenced(self) -> None:
        """Remove the files of a worker that was killed between writing a file and writing its entry."""
        for number in range(self._last + 1, self._last + 1 + MAX_FILES):
            _unlink(side_path(self._journal, number))


def read_side_file(path: str) -> bytes:
    """Return the content of a side file; raise `ProtocolError` unless it is a regular, readable file within `MAX_SIZE`."""
    try:
        with open(open_regular(path), "rb") as file:  # a peer may have put a pipe, a link or a directory there
            size = os.fstat(file.fileno()).st_size
            if size > MAX_SIZE:
                raise ProtocolError(f"a side file of the journal has {size:,} bytes. Expected at most {MAX_SIZE:,}")
            return file.read(size)
    except OSError as failure:
        raise ProtocolError(f"a side file of the journal cannot be read: {failure}") from failure


def _make_again(directory: str) -> bool:
    """Make a run directory again that a cleaner of temporary files has removed; return whether it is there, and private."""
    try:
        make_private(os.path.dirname(directory))
        make_private(directory)
    except OSError:  # a `log_dir`, for instance, may be where other users can write
        return False
    return True


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):  # it was never made, or its directory was removed
        os.unlink(path)
