"""Operations on file descriptors whose numbers may have been reused, and on pipes that may be full."""

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

PIPE_SIZE: Final = 256 * 1024  # a user has 64 MiB for all pipes; beyond that, pipes are tiny
"""Capacity of a pipe in bytes, if the system grants it."""

_SMALL: Final = 64 * 1024
_WRITE_WAIT_SEC: Final = 1.0
# The last two are what filters of system calls in containers return.
_NO_CALL: Final = (errno.EOPNOTSUPP, errno.ESPIPE, errno.EINVAL, errno.ENOSYS, errno.EPERM)

FileIdentity = tuple[int, int, int]
"""Device, inode and type of an open file."""


def identity(file: int | str) -> FileIdentity | None:
    """Return the identity of the file behind a descriptor, or at a path; None if it is closed, missing or not accessible."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


class Held:
    """A descriptor owned by this package. If the program closes it and reuses its number, that file is not touched."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._known = identity(fd)

    @property
    def intact(self) -> bool:
        """Whether the descriptor still refers to the same file."""
        return self._known is not None and identity(self.fd) == self._known

    def renew(self) -> None:
        """Accept the current file, after the owner has redirected the descriptor."""
        self._known = identity(self.fd)

    def close(self) -> None:
        """Close the descriptor, once."""
        if self.intact:
            os.close(self.fd)
        self._known = None


never_freed: Final[list[object]] = []
"""What has descriptors that the program has closed. Freeing it would close their numbers, which others may have by now."""


def duplicate(fd: int) -> int:
    """Return a duplicate of `fd`, not inheritable and above 2, so that it does not replace a closed standard stream."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def make_pipe() -> tuple[int, int]:
    """Return the non-blocking read end and the write end of a large pipe, both not inheritable and above 2."""
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
        except OSError:  # above the limit of this user
            size //= 2
    return ends[0], ends[1]


def read_pipe(fd: int, limit: int) -> bytes | None:
    """Read up to `limit` bytes from a pipe; None if it is empty, ``b""`` at its end.

    Never blocks, even if another process that shares the pipe has made it blocking.
    """
    global _reads_now
    try:
        if _reads_now:
            buffer = bytearray(limit)
            return bytes(buffer[: os.preadv(fd, [buffer], -1, os.RWF_NOWAIT)])
        return os.read(fd, limit) if is_readable(fd, 0.0) else None
    except BlockingIOError:
        return None
    except OSError as failure:
        if not _reads_now or failure.errno not in _NO_CALL:
            raise
        _reads_now = False  # not supported, or not permitted: poll before each read instead
        return read_pipe(fd, limit)


_reads_now = hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv")


def is_read_end(fd: int) -> bool:
    """Return whether a descriptor is the read end of a pipe."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def pending(fd: int) -> int:
    """Return the number of bytes in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def is_readable(fd: int, seconds: float | None) -> bool:
    """Wait up to `seconds`, at most `LONGEST_SEC`, until `fd` is readable or at its end; return whether it is.

    Raises `OSError` for -1, which is the number of a socket that another thread has closed.
    """
    return _is_ready(fd, select.POLLIN, seconds)


def takes_more(fd: int, seconds: float) -> bool:
    """Wait up to `seconds` until `fd` is writable; return whether it is. Raises `OSError` for -1, as `is_readable` does."""
    return _is_ready(fd, select.POLLOUT, seconds)


def _is_ready(fd: int, event: int, seconds: float | None) -> bool:
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(capped(seconds) * 1000))


def write_all(fd: int, data: bytes, *, patient: bool = False) -> None:
    """Write all of `data`. If `fd` is non-blocking and not writable for a second, the rest is lost, unless `patient`."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another process that shares the file may have made it non-blocking
            if not takes_more(fd, _WRITE_WAIT_SEC) and not patient:
                return
