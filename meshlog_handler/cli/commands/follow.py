"""``meshlog follow``: help, arguments and start."""

from __future__ import annotations

import argparse
import re
from typing import Final

from .. import argument_types
from ..parser import Parser
from . import add_run

_ABOUT: Final = """\
Show what a running client shows, in this terminal, with filters of this command. The run does not notice: if this command
reads too slowly, records are left out here, and counted."""

_MORE: Final = """\
examples:
  meshlog follow                           the only run
  meshlog follow --ranks 3 --level WARNING
  meshlog follow --grep 'loss=nan|overflow'
  meshlog follow 4711 --aggregate 3        group similar lines of 3 seconds
  meshlog follow --json | jq .message

It ends with exit code 0 when the run ends. Control sequences in lines are escaped."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _ABOUT, _MORE
    parser.set_defaults(action=_follow)
    add_run(parser)
    add = parser.add_argument
    add("-n", "--lines", type=argument_types.whole, default=0, metavar="LINES", help="begin with the last LINES lines (0)")
    add("--ranks", type=argument_types.ranks, metavar="RANKS", help="only these ranks, such as 3 or 0,4-7")
    add("--level", type=argument_types.level, default=0, help="only records of this level and above: WARNING, 30, ...")
    add("--grep", type=argument_types.pattern, metavar="PATTERN", help="only lines that match (a regular expression)")
    add("--aggregate", type=argument_types.window, metavar="SEC", help="group similar lines of SEC seconds into one")
    add("--json", action="store_true", help="print one JSON object per line")


def _follow(options: argparse.Namespace) -> int:
    from ..view.follow import Filters, follow
    from ..view.observing import joined

    pattern = None if options.grep is None else re.compile(options.grep)
    filters = Filters(options.level, options.ranks, pattern, options.aggregate, options.lines)
    with joined(options.run) as observer:
        follow(observer, filters, as_json=options.json)
    return 0
