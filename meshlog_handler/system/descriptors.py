"""File descriptors, handled with care: numbers that may have been reused, pipes that may be full."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import stat
import termios
from typing import Final

from .waits import capped

PIPE_SIZE: Final = 256 * 1024  # the kernel gives a user 64 MiB for all pipes, and then only tiny ones
"""Bytes a pipe holds before its writers wait, where the system grants so much."""

_SMALL: Final = 64 * 1024
_PATIENCE_MS: Final = 1000

FileIdentity = tuple[int, int, int]
"""Device, inode and kind: what a descriptor leads to."""


def identity(fd: int) -> FileIdentity | None:
    """Return what `fd` leads to; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def place_of(path: str) -> FileIdentity | None:
    """Return what a path leads to, as `identity` does; None if there is nothing, or it is not told."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


class Held:
    """A descriptor of ours. Should somebody close it, what its number leads to then is left alone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._known = identity(fd)

    @property
    def intact(self) -> bool:
        """Whether it still leads where it did."""
        return self._known is not None and identity(self.fd) == self._known

    def renew(self) -> None:
        """Take it as ours wherever it leads now, for we led it there."""
        self._known = identity(self.fd)

    def close(self) -> None:
        """Close it, once."""
        if self.intact:
            os.close(self.fd)
        self._known = None


def duplicate(fd: int) -> int:
    """Return a duplicate of `fd`, not inheritable, and above 2: not in the place of a stdout that is closed.

    Raises
    ------
    OSError
        If `fd` is closed, or there are too many.
    """
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def make_pipe() -> tuple[int, int]:
    """Return the read end, which does not block, and the write end of a large pipe; not inheritable, above 2.

    Raises
    ------
    OSError
        If there are too many descriptors.
    """
    ends = list(os.pipe())
    try:
        for index, end in enumerate(ends):
            if end < 3:
                ends[index] = duplicate(end)
                os.close(end)
        os.set_blocking(ends[0], False)
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    size = PIPE_SIZE
    while hasattr(fcntl, "F_SETPIPE_SZ") and size > _SMALL:
        try:
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, size)
            break
        except OSError:  # more than this user may have
            size //= 2
    return ends[0], ends[1]


def read_pipe(fd: int, limit: int) -> bytes | None:
    """Read up to `limit` bytes from a pipe; None if it is empty, ``b""`` at its end.

    Never waits, also where another process that has the pipe, too, has made it one that blocks.
    """
    global _reads_now
    try:
        if _reads_now:
            buffer = bytearray(limit)
            return bytes(buffer[: os.preadv(fd, [buffer], -1, os.RWF_NOWAIT)])
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return os.read(fd, limit) if poll.poll(0) else None
    except BlockingIOError:
        return None
    except OSError as failure:
        if not _reads_now or failure.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ESPIPE, errno.EINVAL):
            raise
        _reads_now = False  # this system can ask only beforehand
        return read_pipe(fd, limit)


_reads_now = hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv")


def is_read_end(fd: int) -> bool:
    """Tell whether a descriptor is the end of a pipe from which one can read."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def pending(fd: int) -> int:
    """Return how many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def takes_more(fd: int, seconds: float) -> bool:
    """Wait up to `seconds` until `fd` takes some bytes without waiting; return whether it does."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(capped(seconds) * 1000))


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`. Where the descriptor does not block, what it does not take in a second is lost.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # whoever shares a terminal may have set it so
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            if not any(event & select.POLLOUT for _, event in poller.poll(_PATIENCE_MS)):
                return
