"""FdTee: shows the output of C libraries and subprocesses in a text stream without a descriptor, such as a notebook's.

::

    printf, echo -> fd 1 -> pipe -> FdTee's thread -> text stream
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
from ..system.diagnostics import diagnose
from ..system.fd_capture import FdCapture

_CHUNK: Final = 64 * 1024
_LINE_MS: Final = 50
_STOP_SEC: Final = 1.0


class FdTee:
    """Captures descriptors of this process, and passes their text to `routes`: whole lines, and an unfinished line after 50 ms.

    A route must not write to a descriptor that is captured here, or it would receive its own text for ever. One owner calls the
    methods. A forked child continues to write to its parent's pipes, and calls `forget`.

    Code that writes more than the pipe holds (256 KiB on Linux) without releasing the GIL blocks for ever, as with every reader
    that is a thread of the same process.
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
        """Whether this process captures the descriptors."""
        return self._capture.active

    def start(self) -> None:
        """Start the capture, unless it is active. After an `OSError` (too many descriptors), nothing is captured."""
        if self.active:
            return
        try:
            self._wake = os.pipe()
            for fd, reader in self._capture.start().items():
                # A duplicate: the capture may close its descriptor while the thread polls it.
                self._sources[duplicate(reader)] = _Source(self._routes[fd])
            self._thread = threading.Thread(target=self._run, name="meshlog-echo", daemon=True)
            self._thread.start()
        except BaseException:
            self._capture.stop(drain=True)
            self._close()
            raise

    def drain(self) -> None:
        """Show all text that was written to the descriptors before this call."""
        with self._lock:
            for fd, source in self._sources.items():
                self._read(fd, pending(fd))
                self._show(source, whole=False)

    def stop(self) -> None:
        """Show all text, and restore the descriptors, if the capture is active.

        Later output of subprocesses that still write to the pipes is copied to the original files.
        """
        if not self.active:
            return
        os.write(self._wake[1], b"w")
        if self._thread is not None:
            self._thread.join(_STOP_SEC)
            if self._thread.is_alive():
                diagnose("the stream for this process's captured output is blocked. Later output bypasses it.")
        self._capture.stop(drain=True)

    def forget(self) -> None:
        """In a forked child: release the parent's descriptors."""
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
        """Read up to `limit` bytes; False: no writer is left. The caller holds the lock."""
        data = read_pipe(fd, limit) if limit else None
        if data:
            self._sources[fd].feed(data)
        return data != b""

    def _show(self, source: _Source, whole: bool) -> None:
        """Show the text that was read, or only its whole lines. The caller holds the lock."""
        try:
            source.show(whole)
        except Exception as failure:
            if not self._complained:
                self._complained = True
                diagnose(f"cannot show output of this process: {failure!r}. Further failures are not reported.")

    def _close(self) -> None:
        for fd in (*self._wake, *self._sources):
            with contextlib.suppress(OSError):  # already closed
                os.close(fd)
        self._sources, self._wake = {}, (-1, -1)


class _Source:
    """Text that was read from one descriptor and is not shown yet."""

    def __init__(self, route: Callable[[str], None]) -> None:
        self._route = route
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.text = ""

    def feed(self, data: bytes) -> None:
        """Add bytes. An incomplete character is kept until its remaining bytes arrive."""
        self.text += self._decoder.decode(data)

    def show(self, whole: bool) -> None:
        """Show all text, or only whole lines. If the route fails, the text is lost."""
        end = max(self.text.rfind("\n"), self.text.rfind("\r")) + 1 if whole and len(self.text) < _CHUNK else len(self.text)
        text, self.text = self.text[:end], self.text[end:]
        if text:
            self._route(text)
