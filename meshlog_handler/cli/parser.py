"""The parser of the command line, and the table of its commands."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Container, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn

from .._version import __version__
from .messages import USAGE, fail


class Entry(NamedTuple):
    """A command in the help of ``meshlog``: an example, what the example does, and what the command does."""

    example: str
    does: str
    help: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "run": Entry("-n 4 -- python train.py", "run a command on 4 ranks", "run a command on N ranks"),
    "exec": Entry(
        "-- python train.py",
        "run a command as one rank of mpirun, srun or another launcher",
        "run a command as a rank of another launcher's job",
    ),
    "serve": Entry(
        "-- accelerate launch train.py", "show everything that a launcher or script starts", "show what a command starts"
    ),
    "on": Entry(
        "NODE1 NODE2 -- torchrun ...",
        "run a command on other hosts, through ssh, below meshlog serve",
        "run a command on hosts",
    ),
    "relay": Entry("", "what meshlog on starts on each host", "run what meshlog on sends to this host"),
    "tail": Entry("DIR", "print the last records of every rank, after a crash or during a run", "read journals"),
    "ls": Entry("", "list the running clients of this user", "list the running clients of this user"),
    "top": Entry("", "show the ranks of a run in a live table, those with trouble first", "show the ranks of a run, live"),
    "stacks": Entry("", "print the Python stacks of all ranks of a run, merged", "print the stacks of all ranks, merged"),
    "follow": Entry("--ranks 3", "show what a run shows, in another terminal", "show what a run shows, in another terminal"),
    "level": Entry("DEBUG --for 60", "set the level of the ranks of a run for a minute", "set the level in the ranks of a run"),
    "flush": Entry("", "wait until everything logged so far is shown", "wait until everything logged so far is shown"),
    "report": Entry("DIR -o report.html", "make one HTML page of the log directory of a run", "make a page of a log directory"),
    "web": Entry("", "serve a page of a run, updated live", "serve a page of a run, live"),
    "completion": Entry(
        "bash", "print a script with which a shell completes arguments", "print a script that completes arguments in a shell"
    ),
}
"""The commands by name. Each has a file of this name in `commands`."""


class Parser(argparse.ArgumentParser):
    """An argument parser that prints its errors in one line. `arguments` are all that were added, ``--help`` included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments: list[argparse.Action] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument, and note it."""
        self.arguments.append(super().add_argument(*args, **kwargs))
        return self.arguments[-1]

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a help or a version. Unlike that of `argparse`, raise `OSError` if it cannot be written."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Print the error, and exit with code 2, also if stderr is closed or full."""
        raise SystemExit(fail(f"{message} (see {self.prog} --help)", USAGE))


def make_parser(wanted: Container[str | None]) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and the parser of each command. Only the `wanted` commands get their arguments."""
    form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser("meshlog", description=_about(), **form)
    parser.add_argument("--version", action="version", version=f"meshlog {__version__}")
    parser.set_defaults(action=None, takes_command=False, parser=parser)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, entry in COMMANDS.items():
        command = actions.add_parser(name, help=entry.help, **form)
        if name in wanted:
            command.set_defaults(parser=command)
            import_module(f"..commands.{name}", __name__).add_arguments(command)
    return parser, dict(actions.choices)


def meant(unknown: str, known: Iterable[str]) -> str:
    """Return which known word was probably meant, as the end of an error; "" if none is close."""
    close = difflib.get_close_matches(unknown, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def listed(words: Iterable[str]) -> str:
    """Return words as ``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _about() -> str:
    written = {f"meshlog {name} {entry.example}".rstrip(): entry.does for name, entry in COMMANDS.items()}
    width = max(map(len, written)) + 2
    lines = [f"    {example:<{width}}{does}" for example, does in written.items()]
    return "\n".join(["Shows the logs of many processes in one.", "", *lines, "", "Each command has its own --help."])
