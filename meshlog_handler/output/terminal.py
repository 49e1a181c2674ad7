"""Output: a text file that a console writes to. It may be captured, closed, a terminal, or of any encoding."""

from __future__ import annotations

import contextlib
import io
import os
import weakref
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, TextIO

from ..system.descriptors import FileIdentity, duplicate, identity, write_all
from ..system.fd_capture import changes, original_fd

_LINES: Final = 24
_LAUNCHERS: Final = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def is_watched(fd: int, env: Mapping[str, str] | None = None) -> bool:
    """Return whether a terminal is interactive: cursor movement and colours work there."""
    env = os.environ if env is None else env
    # The output of a CI service (``CI``) is recorded and read later.
    if env.get("TERM") == "dumb" or env.get("CI", "").lower() not in ("", "0", "false"):
        return False
    # Open MPI gives each rank a pseudo-terminal without a size as its stdout, copies it to its own stdout, and gives the rank
    # a stdin that is not a terminal.
    if any(name in env for name in _LAUNCHERS):
        try:
            return os.get_terminal_size(fd).columns > 0 and os.isatty(0)
        except OSError:  # not a terminal
            return False
    return True


def wants_colour(terminal: bool, env: Mapping[str, str] | None = None) -> bool:
    """Return whether to colour an output.

    A non-empty ``NO_COLOR`` turns colours off. Otherwise, ``FORCE_COLOR`` (not empty or 0) turns them on. Otherwise, a terminal
    is coloured unless ``TERM`` is ``dumb``. See https://no-color.org and https://force-color.org.
    """
    env = os.environ if env is None else env
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return terminal and env.get("TERM") != "dumb"


def size_told(rank: int | None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``COLUMNS`` and ``LINES`` for a captured program, with room for the prefix of its rank.

    Empty if one of them is set already, or if neither stderr nor stdout of this process is an interactive terminal.
    """
    env = os.environ if env is None else env
    if "COLUMNS" in env or "LINES" in env:
        return {}
    for fd in filter(None, map(original_fd, (2, 1))):
        with contextlib.suppress(OSError):  # closed, or not a terminal
            columns, lines = os.get_terminal_size(fd)
            if columns and lines and is_watched(fd, env):
                prefix = len(f"[{rank}] ") if rank is not None else 0
                return {"COLUMNS": str(max(1, columns - prefix)), "LINES": str(lines)}
    return {}


def colour_told(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``FORCE_COLOR`` for a captured program if this process shows colours: the program itself writes to pipes.

    Empty if it is set already, or if stdout or stderr of this process is not an interactive terminal.
    """
    env = os.environ if env is None else env
    fds = tuple(map(original_fd, (1, 2)))
    shown = all(fd is not None and os.isatty(fd) and is_watched(fd, env) for fd in fds)
    return {"FORCE_COLOR": "1"} if "FORCE_COLOR" not in env and wants_colour(shown, env) else {}


class Output:
    """A text file that a console writes to. One thread at a time may use it.

    If this process is captured and the file leads into its own pipe, `Output` writes to the original file: its output is
    not captured again.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.broken = stream is None  # no file, or its reader is gone for good
        self.place: FileIdentity | None = None  # the file behind the descriptor, if known
        self.terminal = False  # whether the cursor can be moved
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._known_at = changes()
        self._fd: int | None = None
        fd = -1
        if stream is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a file
                self.terminal = stream.isatty()
                fd = self._look(stream)
        self.terminal = self.terminal and is_watched(fd)
        self.colour = wants_colour(self.terminal)

    def _look(self, stream: TextIO) -> int:
        """Find the file to write to, and return a descriptor of it."""
        fd = stream.fileno()
        outside = original_fd(fd)
        if outside != fd:
            if outside is None:
                self.broken = True
                return fd
            # A duplicate: the capture closes its descriptor when it ends.
            self._fd = fd = duplicate(outside)
            weakref.finalize(self, os.close, fd).atexit = False
            self.terminal = os.isatty(fd)
        if isinstance(stream, io.TextIOWrapper):  # other classes may have a descriptor and write elsewhere
            self.place = identity(fd)
        return fd

    @property
    def lines(self) -> int:
        """The height of the terminal, or 24 if it is not known."""
        if self.stream is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or not a terminal any more
                return os.get_terminal_size(self.stream.fileno() if self._fd is None else self._fd).lines or _LINES
        return _LINES

    def is_of(self, stream: TextIO | None) -> bool:
        """Return whether a new `Output` of `stream` would equal this one."""
        return self.stream is stream and self._known_at == changes()

    def write(self, parts: Sequence[str | bytes]) -> None:
        """Write `parts`, and flush. Characters that the encoding lacks are escaped. Errors of the file propagate.

        Waits for the reader of the file, even if another process that shares the file has made it non-blocking.
        """
        fd = self._fd if self._fd is not None else self._non_blocking()
        for kind, group in groupby(parts, type):
            if kind is bytes:
                self._write_bytes(b"".join(group), fd)  # type: ignore[arg-type]  # all of one kind
            else:
                self._write_text("".join(group), fd)  # type: ignore[arg-type]  # all of one kind
        if fd is None and self.stream is not None:
            self.stream.flush()

    def _non_blocking(self) -> int | None:
        """Return the descriptor of the stream if it is non-blocking: the stream would raise and lose what does not fit."""
        if isinstance(self.stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # not a file, or closed: writing to the stream reports it
                fd = self.stream.fileno()
                if not os.get_blocking(fd):
                    self.stream.flush()
                    return fd
        return None

    def _write_text(self, text: str, fd: int | None) -> None:
        if fd is not None:
            write_all(fd, text.encode(self._encoding, "backslashreplace"), patient=True)
        elif self.stream is not None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))

    def _write_bytes(self, data: bytes, fd: int | None) -> None:
        binary = getattr(self.stream, "buffer", None)
        if fd is not None:
            write_all(fd, data, patient=True)
        elif binary is not None and self.stream is not None:
            self.stream.flush()
            binary.write(data)
        else:
            self._write_text(data.decode("utf-8", "backslashreplace"), None)
