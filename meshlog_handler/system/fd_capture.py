"""Captures stdout and stderr at the file descriptor, including the output of C libraries and subprocesses.

::

    print, printf, echo -> fd 1 -> pipe -> the client          (without a client: -> the original fd 1)
    diagnose            -> the original fd 2
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from .c_library import ctypes, libc
from .descriptors import FileIdentity, Held, duplicate, identity, make_pipe, takes_more
from .pump import Pump

_SETTLE_SEC: Final = 1.0

# In order of their start: the originals of the first one are outside all captures.
_active: tuple[FdCapture, ...] = ()
_changes = 0


class FdCapture:
    """Redirects file descriptors to pipes, and restores them. A closed descriptor is captured too, and closed again by `stop`.

    Threads: any thread may write at any time; `start` and `stop` belong to one owner. At every instant a descriptor leads
    either to the pipe or to its original, and no byte is lost between the two.

    Fork: a child continues to write to the pipes of its parent and owns nothing. `stop` does nothing there, and nothing is
    closed. Exec: a new program inherits the captured descriptors, but not the other ends.

    The read ends stay open in this process too, so that writers do not get SIGPIPE when the client exits. `stop` then copies
    the contents of the pipes to the originals.

    ``sys.stdout`` and ``sys.stderr`` stay the same objects. Both, and the C library's stdout, become line-buffered as on a
    terminal, so that the last lines of a killed process are not left in its buffers.
    """

    def __init__(self, fds: Sequence[int] = (1, 2)) -> None:
        self._fds = tuple(fds)
        self._pid = -1
        self._new()

    def _new(self) -> None:
        self._pipes: dict[int, FileIdentity | None] = {}
        self._readers: dict[int, Held] = {}
        self._originals: dict[int, Held | None] = {}
        self._line_buffering: list[tuple[io.TextIOWrapper, bool]] = []

    @property
    def active(self) -> bool:
        """Whether this process captures the descriptors."""
        return self._pid == os.getpid()

    @property
    def original(self) -> Mapping[int, int | None]:
        """For each captured descriptor, a duplicate of its original; None if it was closed."""
        return {fd: held.fd if held is not None else None for fd, held in self._originals.items()}

    def start(self) -> dict[int, int]:
        """Start the capture, unless it is active; return the read end of the pipe of each descriptor.

        The read ends do not block. They belong to this object: any other reader gets a duplicate. If there are too many
        descriptors, an `OSError` is raised and nothing is captured.
        """
        if not self.active:
            flush_streams(self._fds)
            self._new()
            try:
                for fd in self._fds:
                    self._capture(fd)
            except BaseException:
                self._restore()
                self._close()
                raise
            self._pid = os.getpid()
            _change((*_active, self))
            self._set_line_buffering()
        return {fd: reader.fd for fd, reader in self._readers.items()}

    def _capture(self, fd: int) -> None:
        reader, writer = make_pipe()
        try:
            self._readers[fd] = Held(reader)
            self._pipes[fd] = identity(writer)
            try:
                self._originals[fd] = Held(duplicate(fd))
            except OSError as failure:
                if failure.errno != errno.EBADF:
                    raise
                self._originals[fd] = None
            os.dup2(writer, fd, inheritable=True)
        finally:
            os.close(writer)

    def _set_line_buffering(self) -> None:
        for stream in _standard_streams(self._fds):
            with contextlib.suppress(OSError, ValueError):  # the stream is closed, or its buffer cannot be written
                before = stream.line_buffering
                stream.reconfigure(line_buffering=True)
                self._line_buffering.append((stream, before))
        if 1 in self._fds:
            _line_buffer_c_stdout()

    def stop(self, drain: bool = True) -> None:
        """Flush, and restore the descriptors. Does nothing the second time, nor in a forked child.

        A descriptor that the program has redirected meanwhile is not changed. With `drain` (the client is gone), the contents
        of the pipes and later output of subprocesses go to the originals; this waits at most two seconds for the contents.
        Without it, the client reads them.
        """
        if not self.active:
            return
        pump = None
        if drain:
            # The pump starts before the flush, which would block forever on a full pipe without a reader.
            pump = Pump({reader: self._originals[fd] for fd, reader in self._readers.items()})
            pump.start()
        in_time = drain or self.has_room()
        if in_time:
            self._flush()
        if pump is not None:
            pump.settle(_SETTLE_SEC)  # before the descriptors are restored, so that later output comes after earlier output
        self._pid = -1
        _change(tuple(capture for capture in _active if capture is not self))
        self._restore()
        if not in_time:
            self._flush()
        if pump is not None:
            pump.settle(_SETTLE_SEC)
            pump.release()
        else:
            self._close()

    def _flush(self) -> None:
        flush_streams(self._fds)
        for stream, before in self._line_buffering:
            with contextlib.suppress(OSError, ValueError):  # the stream was closed
                stream.reconfigure(line_buffering=before)

    def has_room(self, seconds: float = _SETTLE_SEC) -> bool:
        """Wait up to `seconds` until the pipes are writable; return False if one stays full.

        The client is then stopped, and a flush of the standard streams would block for as long.
        """
        return all(identity(fd) != pipe or takes_more(fd, seconds) for fd, pipe in self._pipes.items())

    def lead_back(self) -> None:
        """Restore the descriptors, and keep the pipes until `stop`: the client still reads their contents."""
        if self.active:
            in_time = self.has_room()
            if in_time:
                flush_streams(self._fds)
            self._restore()
            if not in_time:
                flush_streams(self._fds)

    def _restore(self) -> None:
        # The original of a capture that began later may be a pipe of this one.
        later = [held for other in _active for held in other._originals.values() if held is not None]
        for fd, original in self._originals.items():
            if identity(fd) == self._pipes[fd]:
                _redirect(fd, original, inheritable=True)
            for held in later:
                if identity(held.fd) == self._pipes[fd]:
                    _redirect(held.fd, original, inheritable=False)
                    held.renew()

    def _close(self) -> None:
        for held in (*self._readers.values(), *self._originals.values()):
            if held is not None:
                held.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: become inactive. Nothing is closed: the child writes to the pipes too."""
        self._pid = -1


def _redirect(place: int, original: Held | None, *, inheritable: bool) -> None:
    if original is not None and original.intact:
        os.dup2(original.fd, place, inheritable=inheritable)
    else:
        os.close(place)


def _change(active: tuple[FdCapture, ...]) -> None:
    global _active, _changes
    _active = active
    _changes += 1


def changes() -> int:
    """Return a number that changes with each start and stop of a capture."""
    return _changes


def original_fd(fd: int) -> int | None:
    """Return `fd`, or its original outside all captures (a parent's included); None if that is closed."""
    for capture in _active:
        if fd in capture._originals:
            held = capture._originals[fd]
            return held.fd if held is not None and held.intact else None
    return fd


def _standard_streams(fds: Sequence[int]) -> Iterator[io.TextIOWrapper]:
    """Yield the standard streams of ``sys`` that write to `fds`, each once."""
    seen: list[object] = []
    candidates: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for stream in candidates:
        if isinstance(stream, io.TextIOWrapper) and stream not in seen:
            with contextlib.suppress(OSError, ValueError):  # closed, or no file behind it
                if stream.fileno() in fds:
                    seen.append(stream)
                    yield stream


def flush_streams(fds: Sequence[int]) -> None:
    """Flush Python's standard streams that write to `fds`, and the C library's stdout if it does."""
    for stream in _standard_streams(fds):
        with contextlib.suppress(OSError, ValueError):  # the pipe has no reader, or the stream is closed
            stream.flush()
    if 1 in fds:
        c_stdout = _c_stdout()
        if c_stdout is not None:
            libc().fflush(c_stdout)


@functools.cache
def _c_stdout() -> Any:
    """Return the stdout of the C library, or None if it is not available."""
    if ctypes is None:
        return None
    try:
        return ctypes.c_void_p.in_dll(libc(), "__stdoutp" if sys.platform == "darwin" else "stdout")
    except (OSError, ValueError, AttributeError):
        return None


def _line_buffer_c_stdout() -> None:
    # With a pipe, C buffers kilobytes: they come late, and are lost if the process is killed or calls os._exit.
    c_stdout = _c_stdout()
    if c_stdout is not None:
        line_buffered = 1  # _IOLBF of glibc, musl and macOS
        libc().setvbuf(c_stdout, None, line_buffered, ctypes.c_size_t(0))
