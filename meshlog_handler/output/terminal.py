"""Where a console writes: a text file that may be captured, closed, a terminal, or of another encoding."""

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
from .formatter import wants_colour

_LINES: Final = 24
_LAUNCHERS: Final = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def is_watched(fd: int, env: Mapping[str, str] | None = None) -> bool:
    """Tell whether a terminal is one that a person looks at: where a cursor may be moved, and colours are seen.

    Open MPI gives each rank a pseudo-terminal as its stdout, and writes what comes there to wherever its own stdout leads.
    That one has no size, and stdin is none. What a CI service (``CI``) records is read later. See `wants_colour`, too.
    """
    env = os.environ if env is None else env
    if env.get("TERM") == "dumb" or env.get("CI", "").lower() not in ("", "0", "false"):
        return False
    if any(name in env for name in _LAUNCHERS):
        try:
            return os.get_terminal_size(fd).columns > 0 and os.isatty(0)
        except OSError:  # it is none
            return False
    return True


def size_told(rank: int | None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that tell a captured program how wide its lines may be, beside the prefix of a rank.

    None, where they are set already, or neither stderr nor stdout of this process is a terminal that a person looks at.
    """
    env = os.environ if env is None else env
    if "COLUMNS" in env or "LINES" in env:
        return {}
    for fd in filter(None, map(original_fd, (2, 1))):
        with contextlib.suppress(OSError):  # closed, or no terminal
            columns, lines = os.get_terminal_size(fd)
            if columns and lines and is_watched(fd, env):
                prefix = len(f"[{rank}] ") if rank is not None else 0
                return {"COLUMNS": str(max(1, columns - prefix)), "LINES": str(lines)}
    return {}


class Output:
    """A text file to show things in. Used by one thread at a time.

    Where this process is itself captured, and the file leads into its pipe, this writes to the original: what is
    shown is not captured again.

    Parameters
    ----------
    stream : TextIO or None
        None: there is none, and writing to it is an error.

    Attributes
    ----------
    terminal : bool
        Whether a cursor can be moved there.
    colour : bool
        Whether to colour what is written.
    place : tuple of int or None
        What it leads to; None if that is not known.
    broken : bool
        Whether its reader is gone for good.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.broken = stream is None
        self.place: FileIdentity | None = None
        self.terminal = False
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
        """Learn where the file leads; return the descriptor that leads there."""
        fd = stream.fileno()
        outside = original_fd(fd)
        if outside != fd:
            if outside is None:
                self.broken = True
                return fd
            # Our own, for the capture closes its one when it ends.
            self._fd = fd = duplicate(outside)
            weakref.finalize(self, os.close, fd).atexit = False
            self.terminal = os.isatty(fd)
        if isinstance(stream, io.TextIOWrapper):  # others may have a descriptor, and show things elsewhere
            self.place = identity(fd)
        return fd

    @property
    def lines(self) -> int:
        """The height of the terminal; as usual if it does not say."""
        if self.stream is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or no terminal any more
                return os.get_terminal_size(self.stream.fileno() if self._fd is None else self._fd).lines or _LINES
        return _LINES

    def is_of(self, stream: TextIO | None) -> bool:
        """Tell whether this is what an output of `stream` would be now."""
        return self.stream is stream and self._known_at == changes()

    def write(self, parts: Sequence[str | bytes]) -> None:
        """Write all of `parts`, and flush. Characters that the encoding lacks become ``\\xNN`` and the like.

        Raises
        ------
        Exception
            Whatever the file raises.
        """
        for kind, group in groupby(parts, type):
            if kind is bytes:
                self._write_bytes(b"".join(group))  # type: ignore[arg-type]  # all of one kind
            else:
                self._write_text("".join(group))  # type: ignore[arg-type]  # all of one kind
        if self._fd is None and self.stream is not None:
            self.stream.flush()

    def _write_text(self, text: str) -> None:
        if self._fd is not None:
            write_all(self._fd, text.encode(self._encoding, "backslashreplace"))
        elif self.stream is not None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))

    def _write_bytes(self, data: bytes) -> None:
        binary = getattr(self.stream, "buffer", None)
        if self._fd is not None:
            write_all(self._fd, data)
        elif binary is not None and self.stream is not None:
            self.stream.flush()
            binary.write(data)
        else:
            self._write_text(data.decode("utf-8", "backslashreplace"))
