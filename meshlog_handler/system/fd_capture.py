"""stdout and stderr, captured at the file descriptor: what C libraries and subprocesses write comes, too.

::

    print, printf, echo -> fd 1 -> pipe -> the client          (once it is gone: -> the original fd 1)
    diagnose            -> the original fd 2
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from .descriptors import FileIdentity, Held, duplicate, identity, make_pipe, takes_more, write_all
from .pump import Pump

try:
    import ctypes  # here, and not where it is used: a forked child can meet an import that a thread had begun
except ImportError:  # Python was built without it
    ctypes = None  # type: ignore[assignment]  # asked for below

_SETTLE_SEC: Final = 1.0

# In the order they began: what the first one calls original is outside of all of them.
_active: tuple[FdCapture, ...] = ()
_changes = 0


class FdCapture:
    """Leads file descriptors into pipes, and back.

    Parameters
    ----------
    fds : sequence of int
        Which ones. One that is closed is captured as well, and closed again at the end.

    Notes
    -----
    Threads: any thread may write at any time; `start` and `stop` belong to one owner. At every instant a
    descriptor leads either into the pipe or to its original, and no byte is lost between the two.

    Fork: a child goes on writing into its parent's pipes and owns nothing: `stop` does nothing there, and
    nothing is closed. Exec: a program started from here inherits the captured descriptors, and no other end.

    The read ends stay open here, too. So the death of the client, which reads them, costs no writer its life
    by SIGPIPE; `stop` then brings what lies in the pipes to the originals.

    ``sys.stdout`` and ``sys.stderr`` stay the objects they are. Both, and the C library's stdout, write out
    each line at its end, as on a terminal: the last lines of a killed process must not be in its buffers.
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
        self._pump: Pump | None = None

    @property
    def active(self) -> bool:
        """Whether the descriptors are captured, by this process."""
        return self._pid == os.getpid()

    @property
    def original(self) -> Mapping[int, int | None]:
        """For each captured descriptor, a duplicate of what it was; None if it was closed."""
        return {fd: held.fd if held is not None else None for fd, held in self._originals.items()}

    def start(self) -> dict[int, int]:
        """Capture. Starting twice is the same as once.

        Returns
        -------
        dict of int to int
            The read end of each pipe. It does not block, and stays ours: whoever else reads gets a duplicate.

        Raises
        ------
        OSError
            If there are too many descriptors. Nothing is captured then.
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
            with contextlib.suppress(OSError, ValueError):  # it is closed, or its buffer cannot be written
                before = stream.line_buffering
                stream.reconfigure(line_buffering=True)
                self._line_buffering.append((stream, before))
        if 1 in self._fds:
            _line_buffer_c_stdout()

    def stop(self, drain: bool = True) -> None:
        """Flush, and lead the descriptors back. Does nothing the second time, nor in a forked child.

        A descriptor that somebody led elsewhere meanwhile stays there.

        Parameters
        ----------
        drain : bool
            The client is gone: what the pipes hold, and what subprocesses still write into them, goes to the
            originals. Waits two seconds at most, for what they hold. False: the client reads it.
        """
        if not self.active:
            return
        # Before the flush: where the pipe is full and nobody reads it, that would wait for ever.
        pump = self._start_pump() if drain else self._pump
        in_time = drain or self.has_room()
        if in_time:
            self._flush()
        # Before the way back is open as well: what is written then comes after what was written till now.
        self._settle(pump)
        self._pid = -1
        _change(tuple(capture for capture in _active if capture is not self))
        self._restore()
        if not in_time:
            self._flush()
        self._settle(pump)
        if self._pump is not None:
            self._pump.release()
        else:
            self._close()

    def _flush(self) -> None:
        flush_streams(self._fds)
        for stream, before in self._line_buffering:
            with contextlib.suppress(OSError, ValueError):  # as when it was set
                stream.reconfigure(line_buffering=before)

    def has_room(self, seconds: float = _SETTLE_SEC) -> bool:
        """Wait up to `seconds` until the pipes take more; False if one is full: the client lives, but does not read.

        What the standard streams hold would then keep a flush waiting for as long as the client is stopped.
        """
        return all(identity(fd) != pipe or takes_more(fd, seconds) for fd, pipe in self._pipes.items())

    def lead_back(self) -> None:
        """Lead the descriptors back, and keep the pipes until `stop`: the client still reads what they hold."""
        if self.active:
            in_time = self.has_room()
            if in_time:
                flush_streams(self._fds)
            self._restore()
            if not in_time:
                flush_streams(self._fds)

    def _settle(self, pump: Pump | None, timeout: float = _SETTLE_SEC) -> bool:
        if pump is None:
            return True
        if self._pump is None:  # it has no thread
            pump.copy()
            return True
        return pump.settle(timeout)

    def _restore(self) -> None:
        # A capture that began later calls our pipe its original.
        later = [held for other in _active for held in other._originals.values() if held is not None]
        for fd, original in self._originals.items():
            if identity(fd) == self._pipes[fd]:
                _lead(fd, original, inheritable=True)
            for held in later:
                if identity(held.fd) == self._pipes[fd]:
                    _lead(held.fd, original, inheritable=False)
                    held.renew()

    def _close(self) -> None:
        for held in (*self._readers.values(), *self._originals.values()):
            if held is not None:
                held.close()

    def drain_to_original(self, timeout: float = _SETTLE_SEC) -> bool:
        """From now on, bring what comes through the pipes to the originals: the client is gone.

        A thread does that, for as long as anything writes into the pipes. `stop` does it by itself.

        Parameters
        ----------
        timeout : float
            Seconds to wait until what the pipes hold now is there.

        Returns
        -------
        bool
            Whether it is there.
        """
        if not self.active:
            return True
        return self._settle(self._start_pump(), timeout)

    def _start_pump(self) -> Pump:
        """Return the pump; where it is not kept, it has no thread."""
        if self._pump is not None:
            return self._pump
        pump = Pump({reader: self._originals[fd] for fd, reader in self._readers.items()})
        if pump.start():
            self._pump = pump
        return pump

    def after_fork_in_child(self) -> None:
        """In a forked child: give up what is the parent's. Closes nothing: the child uses the pipes, too."""
        self._pid = -1


def _lead(place: int, original: Held | None, *, inheritable: bool) -> None:
    if original is not None and original.intact:
        os.dup2(original.fd, place, inheritable=inheritable)
    else:
        os.close(place)


def _change(active: tuple[FdCapture, ...]) -> None:
    global _active, _changes
    _active = active
    _changes += 1


def changes() -> int:
    """Return a number that is another one after each start and stop of a capture."""
    return _changes


def original_fd(fd: int) -> int | None:
    """Return what leads where `fd` would without any capture: itself or a duplicate; None if that is closed.

    A capture of the process that this one was forked from counts as well.
    """
    for capture in _active:
        if fd in capture._originals:
            held = capture._originals[fd]
            return held.fd if held is not None and held.intact else None
    return fd


def diagnose(text: str) -> None:
    """Say something about the mesh itself: one line to the original stderr, past the mesh. Never raises.

    Any thread may call it. What cannot be written is lost: there is no other place to say it.
    """
    with contextlib.suppress(Exception):  # as the docstring says
        fd = original_fd(2)
        if fd is not None:
            line = "meshlog: " + text.rstrip("\n").replace("\n", "\n    ") + "\n"
            write_all(fd, line.encode("utf-8", "backslashreplace"))


def _standard_streams(fds: Sequence[int]) -> Iterator[io.TextIOWrapper]:
    """The text files behind the names of ``sys`` that write to `fds`, each once."""
    seen: list[object] = []
    candidates: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for stream in candidates:
        if isinstance(stream, io.TextIOWrapper) and stream not in seen:
            with contextlib.suppress(OSError, ValueError):  # closed, or no file behind it
                if stream.fileno() in fds:
                    seen.append(stream)
                    yield stream


def flush_streams(fds: Sequence[int]) -> None:
    """Write out what Python's standard streams, as far as they lead to `fds`, and the C library's stdout hold."""
    for stream in _standard_streams(fds):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    if 1 in fds:
        libc, c_stdout = _c_stdout()
        if libc is not None:
            libc.fflush(c_stdout)


def _c_stdout() -> tuple[Any, Any]:
    """Return the C library and its stdout; (None, None) where they cannot be had."""
    if ctypes is None:
        return None, None
    try:
        libc = ctypes.CDLL(None)
        return libc, ctypes.c_void_p.in_dll(libc, "__stdoutp" if sys.platform == "darwin" else "stdout")
    except (OSError, ValueError, AttributeError):
        return None, None


def _line_buffer_c_stdout() -> None:
    # To a pipe, C would keep kilobytes: late, and lost if the process is killed or leaves by os._exit.
    libc, c_stdout = _c_stdout()
    if libc is not None:
        line_buffered = 1  # _IOLBF of glibc, musl and macOS
        libc.setvbuf(c_stdout, None, line_buffered, ctypes.c_size_t(0))
