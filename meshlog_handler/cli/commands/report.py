"""``meshlog report``: help, arguments and start."""

from __future__ import annotations

import argparse
from typing import Final

from ..messages import USAGE, explain, fail, note
from ..parser import Parser

_ABOUT: Final = """\
Make one HTML file of the log directory of a run that lives or is over: failures first, ranks over time, progress, similar
lines, and the last lines of each rank, with filters. The file needs no network and no server."""

_MORE: Final = """\
examples:
  meshlog report logs -o report.html       DIR is the --log-dir of the run

It reads the files of each rank, rotated ones included, as text or JSON, and the journals. What was printed has no times in
its files: such times are estimated, and marked. To watch a run while it lives: meshlog web"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_report)
    add = parser.add_argument
    add("directory", metavar="DIR", help="log directory of the run")
    add("-o", "--output", default="report.html", metavar="FILE", help="the file to write; - is stdout (report.html)")


def _report(options: argparse.Namespace) -> int:
    from ..page.report import write_report

    try:
        told = write_report(options.directory, options.output, note)
    except BrokenPipeError:
        raise
    except OSError as failure:
        return fail(explain(failure), USAGE if failure.filename == options.directory else 1)
    note(told)
    return 0
