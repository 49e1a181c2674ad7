"""The commands of the command line: of each its help, its arguments, and the function that starts it.

A command is a file with a function ``add_arguments(parser)``, and a line in `cli.parser.COMMANDS`. It imports what it
starts only then: a wrong argument is reported at once.

May import of the command line: the files beside this folder, launch, view, page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..parser import Parser


def add_run(parser: Parser) -> None:
    """Add the argument that names a run."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="pid, or the beginning of the command, of the run (the only one)")
