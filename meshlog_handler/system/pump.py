"""Copies the contents of pipes to their original destination, after the reader is gone."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Mapping
from typing import Final

from .descriptors import Held, pending, read_pipe, write_all

_CHUNK: Final = 64 * 1024
_MOMENT: Final = 0.1


class Pump:
    """A thread that copies from each read end to its target (None: discards) until the last writer has closed the pipe.

    One owner calls the methods. It owns the descriptors until `release`; then the pump does, and closes them at the end.
    """

    def __init__(self, routes: Mapping[Held, Held | None]) -> None:
        self._routes = dict(routes)
        self._progress = threading.Condition()
        # Bytes by read end, guarded by `_progress`: `settle` waits until the bytes taken have been written.
        self._taken = dict.fromkeys(self._routes, 0)
        self._written = dict.fromkeys(self._routes, 0)
        self._started = self._ended = self._released = False

    def start(self) -> None:
        """Start the thread. If the interpreter is exiting and starts no more threads, `settle` copies instead."""
        with contextlib.suppress(RuntimeError):  # no thread can be started any more
            threading.Thread(target=self._run, name="meshlog-pump", daemon=True).start()
            self._started = True

    def settle(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the present contents of the pipes are copied."""
        if not self._started:
            self._copy()
            return
        with self._progress:
            goal = {reader: taken + _size(reader) for reader, taken in self._taken.items()}
            self._progress.wait_for(
                lambda: self._ended or all(self._written[reader] >= goal[reader] for reader in goal), timeout
            )

    def release(self) -> None:
        """Hand over the descriptors, to be closed when the last writer is gone; usually that is now, so wait briefly."""
        with self._progress:
            self._released = True
            if self._ended or not self._started:
                self._close()
            else:
                self._progress.wait_for(lambda: self._ended, _MOMENT)

    def _copy(self) -> None:
        """Copy the present contents of the pipes on the calling thread."""
        for reader in self._routes:
            size = _size(reader)
            if size:
                self._write(reader, read_pipe(reader.fd, size) or b"")

    def _run(self) -> None:
        poller = select.poll()
        readers = {reader.fd: reader for reader in self._routes if reader.intact}
        for fd in readers:
            poller.register(fd, select.POLLIN)
        while readers:
            for fd, _ in poller.poll():
                reader = readers[fd]
                with self._progress:
                    data = _read(reader)
                    self._taken[reader] += len(data or b"")
                if data:
                    self._write(reader, data)
                elif data is not None:
                    poller.unregister(fd)
                    del readers[fd]
        with self._progress:
            if self._released:
                self._close()
            self._ended = True
            self._progress.notify_all()

    def _write(self, reader: Held, data: bytes) -> None:
        target = self._routes[reader]
        if target is not None and target.intact:
            with contextlib.suppress(OSError):  # the target is broken, and there is no other
                write_all(target.fd, data)
        with self._progress:
            self._written[reader] += len(data)
            self._progress.notify_all()

    def _close(self) -> None:
        for held in (*self._routes, *self._routes.values()):
            if held is not None:
                held.close()


def _size(reader: Held) -> int:
    return pending(reader.fd) if reader.intact else 0


def _read(reader: Held) -> bytes | None:
    try:
        return read_pipe(reader.fd, _CHUNK)
    except OSError:  # the program closed it
        return b""
