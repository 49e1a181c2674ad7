"""The stacks of a process that does not answer: a signal lets its `faulthandler` write them to a memory file, read here.

Nothing is sent unless the process, by its pidfd, is the one that joined, the thread belongs to it, the kernel has a handler for
the signal, and the descriptor is the memory file. A signal without a handler would end the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from typing import Final

from ...insight.stacks import ThreadStack, parse_dump
from ...protocol.messages import StackSignal
from ...system.process_state import SLEEPING, handles_signal, is_handling, thread_state, threads
from ...worker.stacks import MEMORY_FILE, source_lines

_MAX_DUMP: Final = 1 << 20
_SLEEPS: Final = 3
"""How often in a row the thread must wait for a lock before the signal is sent."""

PIDFD_THREAD: Final = getattr(os, "O_EXCL", 0)  # Linux 6.9


class DumpedProcess:
    """Gets a dump of one process. One thread uses it, and closes it. `pidfd` belongs to this object."""

    def __init__(self, pid: int, pidfd: int, how: StackSignal) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._how = how
        self._file = -1
        self._slept = 0
        self._handling: list[int] = []  # the threads on which the handler may run
        self.failure = ""
        self.stacks: tuple[ThreadStack, ...] | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for: the dump is complete or impossible."""
        return self.stacks is not None or bool(self.failure)

    def finish(self) -> None:
        """Read what there is of a dump, if the signal was sent: the process may have ended since."""
        if self._file >= 0:
            self.step()

    def step(self) -> None:
        """Send the signal when that is safe and useful; after that, read the dump once it is complete."""
        if self.over:
            return
        try:
            if self._file < 0:
                self._send()
            else:
                self._read()
        except OSError as refused:
            self.failure = f"no dump of its stacks is available ({refused.strerror})"

    def _send(self) -> None:
        pid, thread, number = self.pid, self._how.thread, self._how.number
        # A thread that is running, or waits for anything but a lock such as the GIL, will answer. A dump of a process that
        # runs Python code at the same time would read frames that change.
        state = thread_state(pid, thread)
        waits = state.state == SLEEPING and (not state.wait_channel or "futex" in state.wait_channel)
        self._slept = self._slept + 1 if waits else 0
        if self._slept < _SLEEPS:
            return
        file = self._open()
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, file)
            target, own = self._pidfd, -1
            handling = self._with_handler()
            with contextlib.suppress(OSError):  # an older kernel: the signal goes to any thread of the process
                target = own = os.pidfd_open(thread, PIDFD_THREAD)
            if own >= 0:
                closing.callback(os.close, own)
                handling = [thread] if thread in handling else []
            if not handling:
                self.failure = "its process has no handler for the signal that dumps stacks"
                return
            os.ftruncate(file, 0)
            signal.pidfd_send_signal(self._pidfd, 0)  # raises if the process has ended: then `pid` may be another one
            signal.pidfd_send_signal(target, number)
            self._file, self._handling = file, handling
            closing.pop_all()
            if own >= 0:
                os.close(own)

    def _with_handler(self) -> list[int]:
        return [each for each in threads(self.pid) if handles_signal(self.pid, each, self._how.number)]

    def _open(self) -> int:
        path = f"/proc/{self.pid}/fd/{self._how.fd}"
        # Nothing is opened that a program may have opened under this number.
        if not os.readlink(path).startswith(f"/memfd:{MEMORY_FILE} "):
            raise FileNotFoundError(0, "the program has closed the file")
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise FileNotFoundError(0, "it is not a memory file")
        return file

    def _read(self) -> None:
        if not os.fstat(self._file).st_size or any(is_handling(self.pid, each, self._how.number) for each in self._handling):
            return
        text = os.pread(self._file, _MAX_DUMP, 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        stacks = parse_dump(text, self._how.main)
        sources = source_lines({(frame.file, frame.line) for stack in stacks for frame in stack.frames})
        self.stacks = tuple(
            stack._replace(sources=tuple(sources.get((frame.file, frame.line), "") for frame in stack.frames))
            for stack in stacks
        )

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self._file, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._file = self._pidfd = -1
