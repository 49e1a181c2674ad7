"""What the command line prints on stderr: errors and notes, each in one line."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from ..errors import MeshlogError, SettingError, printable

USAGE: Final = 2
"""The exit code after a wrong argument."""

_FAILED: Final = 1
_MAX_TEXT: Final = 2000


class CommandError(MeshlogError):
    """Caller error: what the arguments of a command name is not there. `exitcode` is that of the command."""

    exitcode = USAGE


class Unwritten(CommandError):
    """External error: what a command prints cannot be written."""

    exitcode = _FAILED


def fail(text: str, code: int) -> int:
    """Print an error, and return the exit code."""
    note(f"error: {text}")
    return code


def explained(failure: MeshlogError) -> int:
    """Print why a command failed, which a peer may have told, and return the exit code."""
    code = failure.exitcode if isinstance(failure, CommandError) else USAGE if isinstance(failure, SettingError) else _FAILED
    return fail(printable(str(failure).replace("\n", " "), _MAX_TEXT), code)


def note(text: str) -> None:
    """Print a text in one line, also if stderr is closed or full."""
    if sys.stderr is None:  # it is closed; print() would write to stdout
        return
    with contextlib.suppress(OSError):  # its disk is full; the exit code remains
        print("meshlog: " + text.replace("\n", " "), file=sys.stderr)


def explain(failure: OSError) -> str:
    """Return the error text, after the name of the file if there is one."""
    if isinstance(failure, MeshlogError):  # it says everything
        return str(failure)
    where = f"{failure.filename}: " if failure.filename is not None else ""
    return where + (failure.strerror or str(failure))
