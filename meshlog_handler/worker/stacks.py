"""The stacks of this process's threads: encoded on request, or written to a memory file by a signal.

A request needs the interpreter. The handler of the signal is that of `faulthandler`, which does not: it also runs while native
code holds the GIL. The client sends the signal, to the runtime's thread, only after a request was not answered in time.
"""

from __future__ import annotations

import contextlib
import fcntl
import linecache
import os
import signal
import stat
import sys
import threading
from collections.abc import Collection
from types import FrameType
from typing import Final

from ..protocol.codec import pack
from ..protocol.messages import MAX_STACKS, StackSignal
from ..system.descriptors import Held, duplicate
from ..system.diagnostics import diagnose

with contextlib.suppress(ImportError):  # in a subinterpreter, which cannot join a client
    import faulthandler

NUMBER: Final = getattr(signal, "SIGRTMIN", 0) + 12
MEMORY_FILE: Final = "meshlog-stacks"
_MAX_THREADS: Final = 256
_MAX_FRAMES: Final = 128
_MAX_WALKED: Final = 100_000
_MAX_TEXT: Final = 512
_MAX_SOURCE: Final = 160
_MAX_READ: Final = 400
_MAX_FILE: Final = 16 << 20

_Call = tuple[str, int, str]


def thread_stacks(left_out: Collection[int]) -> bytes:
    """Return the stacks of all threads, encoded, except those with the identifiers `left_out`. At most `MAX_STACKS` bytes."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    # All stacks are read before any source line: reading files lets other threads run.
    stacks = [
        (ident != main, names.get(ident, "")[:_MAX_TEXT], _calls(frame))
        for ident, frame in sys._current_frames().items()
        if ident not in left_out
    ]
    stacks = sorted(stacks)[:_MAX_THREADS]
    sources = source_lines(dict.fromkeys((call[0], call[1]) for _, _, calls in stacks for call in calls))
    for known in (sources, {}):
        threads = [(name, tuple((*call, known.get(call[:2], "")) for call in calls)) for _, name, calls in stacks]
        while threads:
            encoded = pack(tuple(threads))
            if len(encoded) <= MAX_STACKS:
                return encoded
            if known:
                break  # try again without source lines
            del threads[len(threads) // 2 :]
    return pack(())


def _calls(innermost: FrameType) -> tuple[_Call, ...]:
    """Return the calls of a stack, outermost first; of a deep one, those at both ends."""
    calls: list[_Call] = []
    frame: FrameType | None = innermost
    while frame is not None and len(calls) < _MAX_WALKED:
        calls.append((frame.f_code.co_filename[-_MAX_TEXT:], frame.f_lineno or 0, frame.f_code.co_name[:_MAX_TEXT]))
        frame = frame.f_back
    calls.reverse()
    if len(calls) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        calls[half:-half] = [("", 0, f"{len(calls) - 2 * half} frames are left out")]
    return tuple(calls)


def source_lines(places: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Return the source lines of files and lines. What `linecache` has read for it is forgotten again."""
    before = set(linecache.cache)
    sources = {
        place: linecache.getline(*place).strip()[:_MAX_SOURCE] for place in list(places)[:_MAX_READ] if _is_readable(place[0])
    }
    for name in set(linecache.cache) - before:
        linecache.cache.pop(name, None)
    return sources


def _is_readable(file: str) -> bool:
    try:
        status = os.stat(file)
        return stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_FILE
    except OSError:  # it is not a file, as a cell of a notebook, or it is in an archive
        return file in linecache.cache
    except ValueError:  # no file can have this name
        return False


class StackDump:
    """The handler of the signal, and the memory file to which it writes. Any thread may call `close`."""

    def __init__(self, number: int, fd: int) -> None:
        self._number = number
        self._file = Held(fd)

    @classmethod
    def register(cls) -> StackDump | None:
        """Register the handler; None if the system has no such files, or something else uses the signal."""
        if not hasattr(os, "memfd_create") or _is_used(NUMBER):
            return None
        fd = -1
        try:
            fd = os.memfd_create(MEMORY_FILE)
            if fd < 3:
                fd, low = duplicate(fd), fd
                os.close(low)
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # the client empties the file before each dump
            faulthandler.register(NUMBER, file=fd, all_threads=True, chain=False)
        except (OSError, RuntimeError) as failure:
            if fd >= 0:
                os.close(fd)
            what = str(failure) if fd >= 0 else f"memfd_create failed: {failure}"
            diagnose(f"the stacks of this process are not available while native code holds the GIL: {what}")
            return None
        return cls(NUMBER, fd)

    def message(self, thread: int) -> StackSignal:
        """Return the message that tells the client how to get a dump; `thread` is the native id of the runtime's thread."""
        return StackSignal(self._number, self._file.fd, thread, threading.main_thread().ident or 0)

    def close(self) -> None:
        """Restore the default action of the signal, unless the program has set a handler since; close the file."""
        if signal.getsignal(self._number) == signal.SIG_DFL:
            faulthandler.unregister(self._number)
        self._file.close()


def _is_used(number: int) -> bool:
    """Return whether the signal is handled, ignored or blocked: then the program, or a library, may use it."""
    try:
        with open("/proc/thread-self/status", "rb", buffering=0) as file:
            lines = file.read().splitlines()
    except OSError:  # no /proc
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigBlk", b"SigIgn", b"SigCgt"))]
    return len(masks) != 3 or any(mask >> number - 1 & 1 for mask in masks)
