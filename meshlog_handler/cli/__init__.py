"""The command line: parses the arguments of ``meshlog``, and starts the command (see `commands`).

May import: errors, settings, _version, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch, client.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from ..errors import MeshlogError
from ..system.descriptors import takes_more
from .messages import Unwritten, explain, explained, fail
from .parser import COMMANDS, listed, make_parser, meant

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Main thread only, since ``meshlog run`` handles signals.

    `argv` holds the arguments without the program's name. None: the arguments of this process.
    """
    _leave_bundle()
    if argv is None and sys.stdout is None:
        sys.stdout = _ClosedOutput()
    interrupted = False
    try:
        return _start(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        interrupted = True
        return 130
    except BrokenPipeError:
        return 141
    except OSError as failure:
        if failure.errno not in _FULL:
            raise
        return fail(f"stdout: {explain(failure)}", 1)
    finally:
        _let_go(at_once=interrupted)
        if argv is None:
            # The process exits. Another Ctrl-C must not print a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start(words: list[str]) -> int:
    """Parse the arguments, run the command, and return its exit code."""
    # All words after the first -- belong to the command.
    at = words.index("--") if "--" in words else len(words)
    parser, _ = make_parser({next((word for word in words[:at] if not word.startswith("-")), None)})
    try:
        if at and not words[0].startswith("-") and words[0] not in COMMANDS:
            parser.error(f"unknown command {words[0]!r}. Expected {listed(COMMANDS)}{meant(words[0], COMMANDS)}")
        options, unknown = parser.parse_known_args(words[:at])
        if unknown:
            # The value of an unknown option may have been parsed as another argument.
            named = [word for word in unknown if word.startswith("-")] or unknown
            known = [name for each in options.parser.arguments for name in each.option_strings if name.startswith("--")]
            options.parser.error(f"unknown arguments: {' '.join(named)}{meant(named[0].partition('=')[0], known)}")
        if options.action is None:
            parser.error(f"no command given. Expected {listed(COMMANDS)}")
        options.words, options.divided = words[at + 1 :], at < len(words)
        if options.words and not options.takes_command:
            options.parser.error(f"unexpected argument {options.words[0]!r}")
        code: int = options.action(options)
        if options.takes_command:  # the exit code of the command stays; it has reported lost output itself
            return code
    except SystemExit as end:  # argparse exits like this, after it has printed the error or the help
        code = end.code if isinstance(end.code, int) else 0
    except MeshlogError as failure:
        return explained(failure)
    try:
        with contextlib.suppress(BrokenPipeError):  # the reader has closed it, as head does
            if code == 0 and sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except OSError as failure:
        return fail(f"stdout: {explain(failure)}", 1)
    return code


def _leave_bundle() -> None:
    """In a program frozen by PyInstaller: let the processes that it starts load the system's libraries, not the bundle's."""
    if hasattr(sys, "_MEIPASS"):
        before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)  # PyInstaller sets it if there was a path
        os.environ.pop("LD_LIBRARY_PATH", None)
        if before is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def _let_go(*, at_once: bool) -> None:
    """Discard the buffered output of a full or closed stdout or stderr: otherwise Python changes the exit code.

    With `at_once`, also discard output that the reader does not read now, so that the user need not wait.
    """
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None and not stream.closed:
                if at_once and not takes_more(fd, 0):
                    raise BlockingIOError(errno.EAGAIN, "nothing reads it")
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, fd)
            os.close(null)
            with contextlib.suppress(OSError):  # the first part of a flush that was interrupted may fail again
                stream.flush()


class _ClosedOutput(io.TextIOBase):
    """Takes the place of a closed stdout: a write raises an error that names the cause."""

    def write(self, text: str, /) -> NoReturn:
        """Raise `Unwritten`."""
        raise Unwritten("stdout is closed")

    def __repr__(self) -> str:
        return "stdout"
