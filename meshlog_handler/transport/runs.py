"""The clients of this user on this machine: each describes itself in a file of its run directory, which observers find."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from ..errors import MeshlogError
from ..protocol.immutable import Immutable
from ..system.regular_files import read_regular
from ..system.shielded import run_whole
from .channel import Address
from .run_directory import living

FILE: Final = "client.json"
_MAX_FILE: Final = 64 * 1024
_MAX_COMMAND: Final = 1000
_NO_DESCRIPTION: Final = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, MeshlogError)


class Run(Immutable):
    """A client that runs.

    Attributes
    ----------
    pid : int
        Its process.
    command : str
        The command line of that process.
    since : float
        When the client was started, in seconds since the epoch.
    address : str
        The path of its socket and its key. Keep it out of command lines and logs.
    path : str
        Its run directory.
    """

    pid: int
    command: str
    since: float
    address: str
    path: str

    def __repr__(self) -> str:
        return f"<Run {self.pid}: {self.command}>"  # without the key


def description(address: str, since: float) -> bytes:
    """Return what a client of this process writes about itself."""
    told = {"pid": os.getpid(), "command": command_line(), "since": since, "address": address}
    return json.dumps(told).encode()


def command_line(words: Sequence[str] | None = None) -> str:
    """Return a command line (None: that of this process) in short: the interpreter and a script of it without their folders."""
    first, *rest = words if words is not None else (getattr(sys, "orig_argv", None) or sys.argv or [""])
    if rest and os.path.basename(rest[0]) == "meshlog":
        first, *rest = rest
    return " ".join([os.path.basename(first), *rest])[:_MAX_COMMAND]


def runs() -> list[Run]:
    """Return the clients of this user that run on this machine and admit observers, the oldest first. Any thread."""
    return run_whole(_runs)  # Ctrl-C leaves no descriptor


def _runs() -> list[Run]:
    found = [run for directory in living() if (run := _read(directory)) is not None]
    return sorted(found, key=lambda run: (run.since, run.pid))


def _read(directory: str) -> Run | None:
    """Return the client of a run directory; None if it has just ended, or admits no observers."""
    with contextlib.suppress(*_NO_DESCRIPTION):  # it has just ended, or something else is in the place of the file
        told = json.loads(read_regular(os.path.join(directory, FILE), _MAX_FILE))
        address = Address.parse(told["address"])
        return Run(int(told["pid"]), str(told["command"]), float(told["since"]), str(address), directory)
    return None
