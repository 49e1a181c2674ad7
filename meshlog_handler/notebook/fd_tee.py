"""Echo: what C libraries and subprocesses write to captured descriptors, shown in text streams.

::

    printf, echo -> fd 1 -> pipe -> the echo's thread -> a stream that is not a file, such as a notebook's
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import Final

from ..system.descriptors import duplicate, pending, read_pipe
from ..system.fd_capture import FdCapture, diagnose

_CHUNK: Final = 64 * 1024
_LINE_MS: Final = 50
_STOP_SEC: Final = 1.0


class FdTee:
    """Captures descriptors of this process, and shows what comes through them: whole lines, and what waits for its end.

    Parameters
    ----------
    routes : mapping of int to Callable[[str], None]
        For each descriptor, what shows its text. It must not write to a descriptor that is captured here: that
        would come back for ever.

    Notes
    -----
    One owner calls the methods; `drain` and the thread take turns. A forked child goes on writing into its parent's
    pipes, and calls `forget`.

    Code that writes more than the pipe holds (a mebibyte, on Linux) without ever releasing the GIL waits for ever, as
    with any reader that is a thread of the same process.
    """

    def __init__(self, routes: Mapping[int, Callable[[str], None]]) -> None:
        self._routes = dict(routes)
        self._capture = FdCapture(tuple(routes))
        self._lock = threading.Lock()
        self._sources: dict[int, _Source] = {}
        self._wake = (-1, -1)
        self._thread: threading.Thread | None = None
        self._complained = False

    @property
    def active(self) -> bool:
        """Whether the descriptors are captured, by this process."""
        return self._capture.active

    def start(self) -> None:
        """Capture. Starting twice is the same as once.

        Raises
        ------
        OSError
            If there are too many descriptors. Nothing is captured then.
        """
        if self.active:
            return
        try:
            self._wake = os.pipe()
            for fd, reader in self._capture.start().items():
                # A number of our own: the capture may close its one while the thread waits for it.
                self._sources[duplicate(reader)] = _Source(self._routes[fd])
            self._thread = threading.Thread(target=self._run, name="meshlog-echo", daemon=True)
            self._thread.start()
        except BaseException:
            self._capture.stop(drain=True)
            self._close()
            raise

    def drain(self) -> None:
        """Show what has been written to the descriptors before this call."""
        with self._lock:
            for fd, source in self._sources.items():
                self._read(fd, pending(fd))
                self._show(source, whole=False)

    def stop(self) -> None:
        """Show what there is, and lead the descriptors back. Stopping twice is the same as once.

        What subprocesses go on writing into the pipes is brought to where the descriptors led before.
        """
        if not self.active:
            return
        os.write(self._wake[1], b"w")
        if self._thread is not None:
            self._thread.join(_STOP_SEC)
            if self._thread.is_alive():
                diagnose("what shows this process's output takes nothing; what is printed from now on is shown past it")
        self._capture.stop(drain=True)

    def forget(self) -> None:
        """In a forked child: give up what is the parent's."""
        self._capture.after_fork_in_child()
        self._lock = threading.Lock()
        self._close()

    def _run(self) -> None:
        poller = select.poll()
        stop, sources = self._wake[0], dict(self._sources)
        for fd in (stop, *sources):
            poller.register(fd, select.POLLIN)
        ready: list[int] = []
        while stop not in ready:
            waiting = any(source.text for source in sources.values())
            ready = [fd for fd, _ in poller.poll(_LINE_MS if waiting else None)]
            with self._lock:
                for fd, source in sources.items():
                    if fd in ready and not self._read(fd, _CHUNK):
                        poller.unregister(fd)
                    self._show(source, whole=fd in ready)
        self.drain()
        with self._lock:
            self._close()

    def _read(self, fd: int, limit: int) -> bool:
        """With the lock held: read up to `limit` bytes. False: no writer is left."""
        data = read_pipe(fd, limit) if limit else None
        if data:
            self._sources[fd].feed(data)
        return data != b""

    def _show(self, source: _Source, whole: bool) -> None:
        """With the lock held: show what was read; only whole lines, if so asked."""
        try:
            source.show(whole)
        except Exception as failure:
            if not self._complained:
                self._complained = True
                diagnose(f"output of this process cannot be shown, here and silently from now on: {failure!r}")

    def _close(self) -> None:
        for fd in (*self._wake, *self._sources):
            with contextlib.suppress(OSError):  # somebody closed it: nothing is left to do
                os.close(fd)
        self._sources, self._wake = {}, (-1, -1)


class _Source:
    """What has come through one descriptor and is not yet shown."""

    def __init__(self, route: Callable[[str], None]) -> None:
        self._route = route
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.text = ""

    def feed(self, data: bytes) -> None:
        """Take in bytes; half a character waits for its other half."""
        self.text += self._decoder.decode(data)

    def show(self, whole: bool) -> None:
        """Show all, or whole lines. What cannot be shown is lost."""
        end = max(self.text.rfind("\n"), self.text.rfind("\r")) + 1 if whole and len(self.text) < _CHUNK else len(self.text)
        text, self.text = self.text[:end], self.text[end:]
        if text:
            self._route(text)
